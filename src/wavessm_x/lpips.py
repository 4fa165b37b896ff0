"""LPIPS, a distance of pictures that was fitted to what people see, with the weights of AlexNet from a local file.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018. The classes that
torchmetrics has for it need torchvision and fetch a network; this needs neither.
"""

from importlib.resources import as_file, files
from pathlib import Path

import torch
from torch import Tensor, nn

from wavessm_x.config import ConfigError
from wavessm_x.weight_files import check_weight, fill_layers, read_weights

COMPARED = {1: 64, 4: 192, 7: 384, 9: 256, 11: 256}
"""After which of AlexNet's layers features are compared, all of them ReLUs, and how many channels they have."""

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""What the network's input is normalised with, when it lies in [-1, 1]; from the reference implementation."""

SMALLEST = 31
"""A picture with a smaller side does not reach the last layer."""


class Lpips:
    """Measure how different two pictures look.

    Args:
        path: A file by `torch.save` or of safetensors with the weights of AlexNet: torchvision's state dict, or that of
            the LPIPS network. If it has weights of the five depths (`lin0.model.1.weight` to `lin4.model.1.weight`),
            they are taken too, else those that come with torchmetrics.

    Raises:
        ConfigError: The file cannot be read, or lacks keys, or their shapes or values are wrong.
    """

    def __init__(self, path: Path) -> None:
        weights = read_weights(path)
        self._layers = _alexnet()
        fill_layers(self._layers, weights, path, "AlexNet")
        self._layers.requires_grad_(False).eval()
        self._depths = _depths(weights, path)

    def __call__(self, output: Tensor, target: Tensor) -> float:
        """Return the distance: 0 for equal pictures, about 1 for unlike ones.

        Args:
            output: [3, H, W]; brought into [0, 1] first, as it would be to be saved.
            target: Of the same shape, in [0, 1].

        Returns:
            The distance; NaN if a side is below 31 pixels, or the output has a NaN in it.
        """
        if min(output.shape[1:]) < SMALLEST:
            return float("nan")
        with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
            pair = torch.stack([output.float(), target.float()]).clamp(0, 1) * 2 - 1
            features = (pair - pair.new_tensor(SHIFT)[:, None, None]) / pair.new_tensor(SCALE)[:, None, None]
            distance = pair.new_zeros(())
            for index, layer in enumerate(self._layers.to(pair.device)):
                features = layer(features)
                if index in COMPARED:
                    distance = distance + _difference(features, self._depths[index].to(pair.device))
        return float(distance)


def _difference(features: Tensor, weights: Tensor) -> Tensor:
    """Return the weighed squared difference of two pictures' features [2, C, H, W], each pixel's of length 1."""
    length = (features.square().sum(dim=1, keepdim=True) + 1e-8).sqrt()
    ours, theirs = features / length
    difference: Tensor = (ours - theirs).square() * weights[:, None, None]
    return difference.sum(dim=0).mean()


def _depths(weights: dict[str, Tensor], path: Path) -> dict[int, Tensor]:
    """Return the weights of the channels that are compared, [C], by the layer they come after."""
    names = [f"lin{depth}.model.1.weight" for depth in range(len(COMPARED))]
    if not any(name in weights for name in names):
        with as_file(files("torchmetrics") / "functional/image/lpips_models/alex.pth") as packaged:
            path, weights = packaged, read_weights(packaged)
    missing = [name for name in names if name not in weights]
    if missing:
        raise ConfigError(f"{path} lacks {missing[0]}. Put the weights of all five depths into the file for LPIPS.")
    for name, channels in zip(names, COMPARED.values(), strict=True):
        check_weight(name, weights[name], torch.Size((1, channels, 1, 1)), path)
    return {index: weights[name].flatten() for index, name in zip(COMPARED, names, strict=True)}


def _alexnet() -> nn.Sequential:
    """Return AlexNet's convolutions (Krizhevsky, 2014, the one-tower model) as far as the last that is compared."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )
