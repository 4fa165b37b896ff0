"""The terms that need no network.

Each takes two float32 images [B, 3, H, W] in [0, 1], and returns a scalar, 0 where they agree.
"""

import torch
from kornia.filters import sobel
from torch import Tensor
from torch.nn import functional

from wavessm_x.losses.similarity import similarity

DETAIL = 1.5
"""How much the detail bands of the wavelet transform weigh beside the approximation."""


def l1(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute difference."""
    return functional.l1_loss(output, target)


def ssim(output: Tensor, target: Tensor) -> Tensor:
    """Return 1 - SSIM, from 0 to 2: an 11x11 Gaussian window of sigma 1.5 (Wang et al., 2004), mirrored borders.

    H and W must be 6 or more.
    """
    return 1 - similarity(output, target).mean()


def edge(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute difference of the Sobel gradients' magnitudes."""
    return functional.l1_loss(sobel(output), sobel(target))


def freq(output: Tensor, target: Tensor) -> Tensor:
    """Return L1(LL) + 1.5 L1(LH, HL, HH) of one level of the Haar transform.

    The transform is linear, so the difference is transformed once.
    """
    bands = haar(output - target)
    return bands[0].abs().mean() + DETAIL * bands[1:].abs().mean()


def haar(image: Tensor) -> Tensor:
    """Return the four bands of one level of the orthonormal Haar transform.

    Args:
        image: [B, C, H, W]; an odd side is lengthened by its last row or column.

    Returns:
        [4, B, C, ceil(H/2), ceil(W/2)]: the approximation, then the horizontal, vertical and diagonal detail in the
        order and with the signs of PyWavelets.
    """
    height, width = image.shape[-2:]
    image = functional.pad(image, (0, width % 2, 0, height % 2), mode="replicate")
    upper, lower = image[..., 0::2, :], image[..., 1::2, :]
    low, high = (upper + lower) / 2, (upper - lower) / 2
    return torch.stack(
        [
            low[..., 0::2] + low[..., 1::2],
            high[..., 0::2] + high[..., 1::2],
            low[..., 0::2] - low[..., 1::2],
            high[..., 0::2] - high[..., 1::2],
        ]
    )
