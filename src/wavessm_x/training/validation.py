"""Validation on full pictures, which one bad picture does not end."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from wavessm_x.data import Sample
from wavessm_x.lpips import Lpips
from wavessm_x.metrics import mean_scores, scores

logger = logging.getLogger("wavessm_x")

Loss = Callable[[Tensor, Tensor], Tensor]


class Pictures(Protocol):
    """Full pictures by number."""

    def __len__(self) -> int:
        """Return how many."""

    def __getitem__(self, number: int) -> Sample:
        """Return one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What a validation found; means over pictures, NaN where there is none.

    Args:
        val_loss: The training loss.
        psnr: In decibels.
        ssim: Structural similarity, up to 1.
        psnr_masked: PSNR over masked pixels, in decibels.
        ssim_masked: Mean of the SSIM map there.
        lpips: A learned distance, where its weights were given.
        succeeded: Pictures that were scored.
        failed: Pictures that were not.
    """

    val_loss: float = math.nan
    psnr: float = math.nan
    ssim: float = math.nan
    psnr_masked: float = math.nan
    ssim_masked: float = math.nan
    lpips: float = math.nan
    succeeded: int = 0
    failed: int = 0


@torch.no_grad()
def validate(
    model: nn.Module,
    pictures: Pictures,
    loss: Loss,
    device: torch.device,
    *,
    masked: bool = False,
    lpips: Lpips | None = None,
) -> Validation:
    """Score a model on full pictures, one by one; a picture that fails is named and left out.

    Args:
        model: Called with image and mask, or the image alone; its mode is restored.
        pictures: With fixed masks.
        loss: Of output and target.
        device: Where the model is.
        masked: Whether the model is told the mask.
        lpips: Measures that distance too.
    """
    was_training = model.training
    model.eval()
    found: list[dict[str, float]] = []
    failed = 0
    try:
        for number in range(len(pictures)):
            try:
                found.append(_scored(model, pictures[number], loss, device, masked=masked, lpips=lpips))
            except Exception as error:  # whatever one picture raises, the others still count
                failed += 1
                logger.warning("[VAL ERROR] Batch %d failed: %s", number, error)
    finally:
        model.train(was_training)
    if not found:
        logger.warning("[WARN] Validation produced 0 valid batches! (%d failed)", failed)
        return Validation(failed=failed)
    if failed:
        logger.info("[INFO] %d validation batches failed, %d succeeded", failed, len(found))
    return Validation(**mean_scores(found), succeeded=len(found), failed=failed)


def _scored(
    model: nn.Module, sample: Sample, loss: Loss, device: torch.device, *, masked: bool, lpips: Lpips | None
) -> dict[str, float]:
    image, target, mask = (sample[key].unsqueeze(0).to(device) for key in ("image", "target", "mask"))
    output = model(image, mask if masked else None)
    if not bool(output.isfinite().all()):
        raise ArithmeticError(f"the output for {sample['name']} is not finite")
    value = float(loss(output, target))
    learned = {} if lpips is None else {"lpips": lpips(output[0].cpu(), target[0].cpu())}
    return {"val_loss": value, **scores(output[0], target[0], mask[0]), **learned}


def as_history(validation: Validation, iteration: int) -> dict[str, Any]:
    """Return what goes into `val_history`; the learned distance only where it was measured."""
    names = ("val_loss", "psnr", "ssim", "psnr_masked", "ssim_masked", "lpips")
    values = {name: getattr(validation, name) for name in names}
    if math.isnan(validation.lpips):
        del values["lpips"]
    return {"iteration": iteration, **values}
