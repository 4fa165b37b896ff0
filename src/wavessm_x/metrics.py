"""How good a restored picture is: PSNR and SSIM, of all of it and of what was damaged."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

NAN = float("nan")


def scores(output: Tensor, target: Tensor, mask: Tensor) -> dict[str, float]:
    """Return the scores of one picture.

    Args:
        output: [3, H, W], H and W of 6 or more. Brought into [0, 1] first, as it would be to be saved.
        target: Of the same shape, in [0, 1].
        mask: [1, H, W], above 0.5 where the picture was damaged.

    Returns:
        psnr: In dB, Inf where the pictures are equal.
        ssim: From -1 to 1, of an 11x11 Gaussian window of sigma 1.5, the mean over all pixels and channels.
        psnr_masked: PSNR over the damaged pixels.
        ssim_masked: The mean of the map of SSIM over them.

        The last two are NaN if nothing was damaged; all are NaN if the output has a NaN in it.

    Raises:
        ValueError: The shapes do not fit together.
    """
    if output.shape != target.shape or output.ndim != 3 or mask.shape != (1, *output.shape[1:]):
        raise ValueError(
            f"Got an output {tuple(output.shape)}, a target {tuple(target.shape)} and a mask {tuple(mask.shape)}; "
            "expected [3, H, W], [3, H, W] and [1, H, W]."
        )
    with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
        output, target = output.float().clamp(0, 1), target.float().clamp(0, 1)
        if output.isnan().any():
            return dict.fromkeys(("psnr", "ssim", "psnr_masked", "ssim_masked"), NAN)
        similarity = _ssim_map(output, target)
        damaged = (mask > 0.5).expand_as(output)
        return {
            "psnr": _psnr(output, target),
            "ssim": float(similarity.mean()),
            "psnr_masked": _psnr(output[damaged], target[damaged]) if damaged.any() else NAN,
            "ssim_masked": float(similarity[damaged].mean()) if damaged.any() else NAN,
        }


def mean_scores(pictures: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each score over pictures, NaN skipped; NaN where no picture has a number.

    One picture that is restored without any error would make a mean of PSNR infinite; such a one counts as 100 dB.
    """
    gathered: dict[str, list[float]] = {}
    for picture in pictures:
        for name, value in picture.items():
            kept = gathered.setdefault(name, [])
            if not math.isnan(value):
                kept.append(min(value, BEST_PSNR))
    return {name: math.fsum(values) / len(values) if values else NAN for name, values in gathered.items()}


BEST_PSNR = 100.0
"""The most that a picture's PSNR counts as in a mean, in dB: far above what any restored picture reaches."""


def _psnr(output: Tensor, target: Tensor) -> float:
    return float(peak_signal_noise_ratio(output, target, data_range=1.0))


def _ssim_map(output: Tensor, target: Tensor) -> Tensor:
    _, similarity = structural_similarity_index_measure(
        output[None], target[None], data_range=1.0, return_full_image=True
    )
    return similarity[0]
