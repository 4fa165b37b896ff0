"""A picture -> its fine detail, in units of the contrast around each pixel.

What is missing in a thin hole is a small part of a picture's range, of another size in a wall than in grass. In these
units it is of one size, so that a network need not learn to take small differences of large numbers first.
"""

import torch
from torch import Tensor
from torch.nn import functional

REACH = 2
"""Pixels to each side that count as around a pixel."""

LEAST = 0.01
"""Contrast in flat regions, of a range of 1."""


def detailed(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a picture has beyond its local means, and how much there is of that.

    Args:
        image: Floats, [B, C, H, W].

    Returns:
        The detail divided by the contrast, [B, C, H, W]; and the contrast, the root of the detail's local mean square
        over all channels, [B, 1, H, W], 0.01 or more.
    """
    detail = image - _local_mean(image)
    power = _local_mean(detail.square()).mean(1, keepdim=True)
    contrast = torch.sqrt(power + LEAST**2)
    return detail / contrast, contrast


def _local_mean(image: Tensor) -> Tensor:
    around = functional.pad(image, (REACH,) * 4, mode="replicate")
    return functional.avg_pool2d(around, 2 * REACH + 1, stride=1)
