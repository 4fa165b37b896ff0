"""A plain U-Net of torch's own layers, as wide as it takes to have a given number of parameters."""

import torch
from torch import Tensor, nn

LEVELS = 4
"""As many as WaveSSM-X has: full resolution, a half, a quarter, an eighth."""


class UNet(nn.Module):
    """Two 3x3 convolutions with BatchNorm and ReLU a level, max-pooling down, transposed convolutions up.

    After Ronneberger et al., 2015, "U-Net" (arXiv 1505.04597); like WaveSSM-X it adds to the picture given.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [width * 2**level for level in range(LEVELS)]
        self.down = nn.ModuleList(_pair(a, b) for a, b in zip([3, *sizes], sizes, strict=False))
        steps = list(zip(sizes[-2::-1], sizes[:0:-1], strict=True))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in steps)
        self.up = nn.ModuleList(_pair(2 * fine, fine) for fine, _ in steps)
        self.output = nn.Conv2d(width, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        features, finer = self.down[0](image), []
        for level in self.down[1:]:
            finer.append(features)
            features = level(nn.functional.max_pool2d(features, 2))
        for enlarge, level in zip(self.enlarge, self.up, strict=True):
            features = level(torch.cat([finer.pop(), enlarge(features)], dim=1))
        return image + self.output(features)


def unet_of(parameters: int) -> UNet:
    """Return the U-Net whose number of parameters is closest to the given one; it must be within 2 %."""
    with torch.device("meta"):
        width = min(range(1, 200), key=lambda each: abs(count(UNet(each)) - parameters))
    found = UNet(width)
    if abs(count(found) / parameters - 1) > 0.02:
        raise ValueError(f"The closest U-Net has {count(found)} parameters, not {parameters}; expected within 2 %.")
    return found


def count(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


def _pair(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in (before, after):
        layers += [nn.Conv2d(size, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)
