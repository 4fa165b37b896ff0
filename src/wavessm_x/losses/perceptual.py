"""The perceptual term: how far two pictures are apart in the features of VGG19, whose weights lie in a local file."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavessm_x.weight_files import fill_layers, read_weights

WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512)
"""Channels of the convolutions of VGG19 up to conv4_4; 0 is a pooling (Simonyan and Zisserman, 2015, table 1, E)."""

COMPARED = (3, 8, 17, 26)
"""Where features are compared: after the last ReLU before each pooling, numbered as torchvision's `features`."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue, which the network was trained with."""


class Perceptual:
    """Compare features of VGG19.

    The network is frozen, stays in float32, follows the pictures to their device, and is in no state dict.

    Args:
        path: A file by `torch.save` or of safetensors with the keys of torchvision's VGG19, `features.0.weight` to
            `features.25.bias`, before which anything may stand. More keys are left alone.

    Raises:
        ConfigError: The file cannot be read, or lacks keys, or their shapes or values are wrong.
    """

    def __init__(self, path: Path) -> None:
        self._layers = _layers()
        fill_layers(self._layers, read_weights(path), path, "VGG19")
        self._layers.requires_grad_(False).eval()

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean over four depths of the mean absolute difference of features.

        Args:
            output: Float32 [B, 3, H, W] in [0, 1], H and W of 8 or more.
            target: Of the same shape.
        """
        self._layers.to(output.device)
        difference = output.new_zeros(())
        ours = _normalised(output)
        with torch.no_grad():
            theirs = _normalised(target)
        for index, layer in enumerate(self._layers):
            ours = layer(ours)
            with torch.no_grad():
                theirs = layer(theirs)
            if index in COMPARED:
                difference = difference + functional.l1_loss(ours, theirs)
        return difference / len(COMPARED)


def _layers() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for width in WIDTHS:
        if width:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _normalised(image: Tensor) -> Tensor:
    return (image - image.new_tensor(MEAN)[:, None, None]) / image.new_tensor(STD)[:, None, None]
