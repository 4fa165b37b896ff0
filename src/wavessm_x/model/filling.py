"""Holes -> something smooth to begin with: what is known around them, at the finest scale that reaches into them."""

import torch
from torch import Tensor
from torch.nn import functional

LEVELS = 8
"""Halvings of the resolution; what is further than 2 ** 8 pixels from anything known gets the mean of all that is."""

TAPS = (0.125, 0.375, 0.375, 0.125)
"""The binomial filter of four taps, before every second sample is dropped."""

TRUSTED = 0.25
"""A cell of a coarser level of which so much is known counts as known; of less, as a mixture with the level above."""

RELAXATIONS = 16
"""Steps towards the biharmonic equation; they reach across lines, and round off what was pushed into larger holes."""

STEP, MOMENTUM = 1 / 36, 0.7
"""Of these steps; the operator's eigenvalues are 64 at most, so that they are stable."""

BIHARMONIC = ((0, 0, 1, 0, 0), (0, 2, -8, 2, 0), (1, -8, 20, -8, 1), (0, 2, -8, 2, 0), (0, 0, 1, 0, 0))
"""The Laplace operator applied twice, on a grid."""

TINY = 1e-6
"""Keeps divisions by nothing known finite."""


def filled(image: Tensor, mask: Tensor) -> Tensor:
    """Fill holes by pulling known pixels down to coarser levels and pushing them back up into what is unknown.

    That algorithm is of Gortler et al. (1996, "The Lumigraph", section 3.4), here with a binomial filter. Then a few
    steps towards the biharmonic equation are taken, which joins slopes and not only values at the borders of holes.

    Args:
        image: Floats, [B, C, H, W]; under the mask it may hold anything finite.
        mask: Floats, 1 where the picture is to be filled, else 0, [B, 1, H, W].

    Returns:
        A new picture of the image's shape and type, equal to it where the mask is 0; all 0 if nothing at all is known.
        It is computed in single precision at least, whatever autocast says.
    """
    exact = torch.promote_types(image.dtype, torch.float32)
    with torch.autocast(image.device.type, enabled=False):
        holes = mask.to(exact)
        return _relaxed(_pushed(image.to(exact), 1 - holes), holes).to(image.dtype)


def _pushed(image: Tensor, known: Tensor) -> Tensor:
    values = image * known
    finer = []
    for _ in range(LEVELS):
        finer.append((values, known))
        coarse = _halved(known)
        share = (coarse / TRUSTED).clamp(max=1)
        values, known = _halved(values) / coarse.clamp(min=TINY) * share, share
    total = known.sum((2, 3), keepdim=True).clamp(min=TINY)
    pushed = values + (1 - known) * values.sum((2, 3), keepdim=True) / total
    for values, known in reversed(finer):
        height, width = values.shape[-2:]
        larger = functional.interpolate(pushed, scale_factor=2.0, mode="bilinear", align_corners=False)
        pushed = values + (1 - known) * larger[..., :height, :width]
    return pushed


def _relaxed(image: Tensor, holes: Tensor) -> Tensor:
    """Take steps of gradient descent with momentum on the squared Laplacian, in holes alone."""
    channels = image.shape[1]
    kernel = STEP * torch.tensor(BIHARMONIC, dtype=image.dtype, device=image.device).expand(channels, 1, -1, -1)
    change = torch.zeros_like(image)
    for _ in range(RELAXATIONS):
        around = functional.pad(image, (2, 2, 2, 2), mode="replicate")
        change = MOMENTUM * change - holes * functional.conv2d(around, kernel, groups=channels)
        image = image + change
    return image


def _halved(image: Tensor) -> Tensor:
    """Halve the resolution [B, C, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)]; beyond the borders all is 0."""
    channels = image.shape[1]
    taps = torch.tensor(TAPS, dtype=image.dtype, device=image.device)
    kernel = torch.outer(taps, taps).expand(channels, 1, -1, -1)
    return functional.conv2d(functional.pad(image, (1, 2, 1, 2)), kernel, stride=2, groups=channels)
