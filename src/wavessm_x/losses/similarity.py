"""SSIM that is fast to learn by: its windows are two matrix products, where torchmetrics has a convolution of 121 taps.

Measured in benchmarks/wavessm_x/ssim.py.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

RADIUS, SIGMA = 5, 1.5
"""Of the Gaussian window, in pixels (Wang et al., "Image quality assessment: from error visibility to structural
similarity", 2004)."""

C1, C2 = 0.01**2, 0.03**2
"""The constants of the paper, for values in [0, 1]."""


def similarity(output: Tensor, target: Tensor) -> Tensor:
    """Return the map of SSIM, from -1 to 1, whose borders are mirrored.

    Args:
        output: [B, C, H, W] of float32 or float64, H and W of 6 or more.
        target: Of the same shape and type, in [0, 1].
    """
    blurred = _blur(torch.cat([output, target, output.square() + target.square(), output * target]))
    mean_output, mean_target, mean_squares, mean_product = blurred.chunk(4)
    product, squares = mean_output * mean_target, mean_output.square() + mean_target.square()
    structure = (2 * (mean_product - product) + C2) / (mean_squares - squares + C2)
    return (2 * product + C1) / (squares + C1) * structure


def _blur(image: Tensor) -> Tensor:
    """Return the Gaussian means around each pixel."""
    height, width = image.shape[-2:]
    return _window(height, image.device, image.dtype) @ image @ _window(width, image.device, image.dtype).T


@lru_cache(maxsize=16)
def _window(length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the matrix that takes the Gaussian means along a side of so many pixels."""
    with torch.inference_mode(mode=False), torch.no_grad():
        at = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
        weights = torch.exp(-at.square() / (2 * SIGMA**2))
        weights /= weights.sum()
        pixels = torch.eye(length, dtype=torch.float64)
        mirrored = functional.pad(pixels[None], (RADIUS, RADIUS), mode="reflect")[0]
        rows = [weights @ mirrored.T[start : start + len(weights)] for start in range(length)]
        return torch.stack(rows).to(device, dtype)
