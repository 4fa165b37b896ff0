"""A small U-Net that finds discs and squares on textured backgrounds: pictures, network, training, metric."""

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "repair" / "segmenter.pt"
SIZE = 32
CLASSES = 3
"""Background, disc, square."""

WIDTHS = (8, 16, 32, 32)
STEPS = 500
BATCH = 32


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw pictures [N, 3, 32, 32] with a disc and a square each, and their classes [N, 32, 32].

    Background and shapes have textures of their own: smooth noise of a random mean, contrast and scale, so that the
    outline has to be found, and not a colour.
    """
    random = torch.Generator().manual_seed(seed)
    images, labels = _texture(count, random), torch.zeros(count, SIZE, SIZE, dtype=torch.long)
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    for kind in (2, 1):
        centre = torch.randint(5, SIZE - 5, (2, count, 1, 1), generator=random)
        radius = torch.randint(4, 8, (count, 1, 1), generator=random)
        down, across = (rows - centre[0]).abs(), (columns - centre[1]).abs()
        inside = torch.maximum(down, across) < radius if kind == 2 else down**2 + across**2 < radius**2
        images = torch.where(inside[:, None], _texture(count, random), images)
        labels[inside] = kind
    return images + 0.1 * torch.randn(images.shape, generator=random), labels


def _texture(count: int, random: torch.Generator) -> Tensor:
    coarse = torch.randn(count, 3, SIZE // 4, SIZE // 4, generator=random)
    texture = functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear")
    contrast = 0.1 + 0.5 * torch.rand(count, 1, 1, 1, generator=random)
    return texture * contrast + torch.randn(count, 3, 1, 1, generator=random)


class _Double(nn.Sequential):
    """Convolution, norm, ReLU, twice."""

    def __init__(self, before: int, width: int) -> None:
        layers: list[nn.Module] = []
        for each in (before, width):
            layers += [nn.Conv2d(each, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        super().__init__(*layers)


class UNet(nn.Module):
    """Two double convolutions a level on the way down, one on the way up: 22 norms."""

    def __init__(self) -> None:
        super().__init__()
        levels = list(pairwise((3, *WIDTHS)))
        self.down = nn.ModuleList(nn.Sequential(_Double(old, new), _Double(new, new)) for old, new in levels)
        joined = [(deep + flat, flat) for flat, deep in pairwise(WIDTHS)]
        self.up = nn.ModuleList(_Double(both, flat) for both, flat in reversed(joined))
        self.head = nn.Conv2d(WIDTHS[0], CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits: [N, 3, H, W] to [N, 3 classes, H, W]."""
        kept: list[Tensor] = []
        for level in self.down:
            x = level(functional.max_pool2d(x, 2) if kept else x)
            kept.append(x)
        for level, flat in zip(self.up, reversed(kept[:-1]), strict=True):
            x = level(torch.cat([functional.interpolate(x, scale_factor=2), flat], 1))
        return self.head(x)  # type: ignore[no-any-return]


def mean_iou(logits: Tensor, labels: Tensor) -> float:
    """Return the intersection over union of disc and square, averaged; a pixel that is not finite is wrong."""
    found = torch.where(logits.isfinite().all(1), logits.argmax(1), -1)
    shares = []
    for kind in range(1, CLASSES):
        either = (found == kind) | (labels == kind)
        shares.append(float(((found == kind) & (labels == kind)).sum() / either.sum()))
    return sum(shares) / len(shares)


def trained_unet() -> UNet:
    """Train it, or load what was trained here before."""
    torch.manual_seed(0)
    model = UNet()
    if not CACHE.exists():
        _train(model)
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), CACHE)
    model.load_state_dict(torch.load(CACHE, weights_only=True))
    return model


def _train(model: UNet) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=STEPS)
    model.train()
    for step in range(STEPS):
        images, labels = pictures(BATCH, seed=1000 + step)
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        schedule.step()
