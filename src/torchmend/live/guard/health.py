"""The periodic check of everything that lasts from step to step: weights, statistics, optimizer state."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchmend.facts.findings import Finding
from torchmend.live.diagnosing import diagnose_live
from torchmend.live.repairing import repair_live
from torchmend.live.screening import is_evidently_sound

logger = logging.getLogger("torchmend.guard")

MOST_SHOWN = 5
"""Findings that are logged one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What a check found.

    Args:
        findings: What is wrong.
        repaired: How many tensors were repaired in place.
        left: What is wrong still.
    """

    findings: tuple[Finding, ...] = ()
    repaired: int = 0
    left: tuple[Finding, ...] = ()


def check(models: Sequence[nn.Module], optimizers: Sequence[Optimizer], step: int, *, acts: bool) -> Health:
    """Check models and optimizers; repair statistics and moments, which can be repaired without a copy.

    Args:
        models: Whose parameters and buffers are looked at.
        optimizers: Whose state is.
        step: For the log.
        acts: Whether to repair.
    """
    if all(map(is_evidently_sound, models)) and all(map(_is_sound, optimizers)):
        logger.info("[HEALTH CHECK] iter %d: Model health OK", step)
        return Health()
    findings: list[Finding] = []
    left: list[Finding] = []
    repaired = 0
    for at, model in enumerate(models):
        optimizer = optimizers[at] if len(optimizers) == len(models) else optimizers[0] if at == 0 else None
        diagnosis = diagnose_live(model, optimizer)
        findings += diagnosis.damaged
        if diagnosis.damaged and acts:
            result = repair_live(model, optimizer)
            repaired += len(result.plan.edits)
            left += result.after.damaged if result.after is not None else diagnosis.damaged
        else:
            left += diagnosis.damaged
    if not findings:
        logger.info("[HEALTH CHECK] iter %d: Model health OK", step)
        return Health()
    logger.warning("[HEALTH CHECK] iter %d: Found %d corrupted stats!", step, len(findings))
    for each in findings[:MOST_SHOWN]:
        logger.warning("  %s %s", each.code.value, each.place)
    if repaired:
        logger.warning("Auto-sanitized %d BatchNorm statistics.", repaired)
    return Health(findings=tuple(findings), repaired=repaired, left=tuple(left))


@torch.no_grad()
def _is_sound(optimizer: Optimizer) -> bool:
    """Return whether the state's floating-point tensors are all finite; False means: look closer."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor) and value.is_floating_point() and value.numel() and not value.is_sparse:
                groups.setdefault((value.device, value.dtype), []).append(value)
    sums = [torch.stack(torch._foreach_norm(group)).float().sum() for group in groups.values()]
    return all(bool(torch.isfinite(each)) for each in sums)
