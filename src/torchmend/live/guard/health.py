"""The periodic check of everything that lasts from step to step: weights, statistics, optimizer state, averages."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchmend.facts.findings import Finding
from torchmend.live.diagnosing import diagnose_live
from torchmend.live.ownership import averaged_model, inner_model
from torchmend.live.repairing import repair_live
from torchmend.live.screening import is_evidently_sound, is_statistic

logger = logging.getLogger("torchmend.guard")

MOST_SHOWN = 5
"""Findings that are logged one by one."""

COMMON = 2
"""Level of damage to what all ranks that train together hold alike: weights, optimizer state, averages."""


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

    @property
    def level(self) -> int:
        """0 if all is well, 1 if only statistics are damaged, which each rank has for itself, else COMMON."""
        in_common = any(not is_statistic(each.place) for each in self.findings)
        return COMMON if in_common else int(bool(self.findings))


@dataclass(frozen=True, slots=True, kw_only=True)
class Patients:
    """What a check looks at.

    Args:
        models: Whose parameters and buffers are looked at.
        optimizers: Whose state is.
        averages: Averaged models; what is damaged in them is taken from the live ones.
        legal: Buffers that were not finite from the start, or became infinite in the first step that happened: a best
            loss of Inf, the range of an observer, a mask.
    """

    models: Sequence[nn.Module] = ()
    optimizers: Sequence[Optimizer] = ()
    averages: Sequence[Any] = ()
    legal: frozenset[str] = frozenset()


def check(patients: Patients, step: int, *, acts: bool, is_routine: bool = True) -> Health:
    """Check models, optimizers and averages; repair statistics, moments and averages, which need no snapshot.

    Args:
        patients: What is looked at.
        step: For the log.
        acts: Whether to repair.
        is_routine: Whether the log says so if all is well.
    """
    health = Health() if _are_evidently_sound(patients) else _examined(patients, acts=acts)
    if not health.findings:
        level = logging.INFO if is_routine else logging.DEBUG
        logger.log(level, "[HEALTH CHECK] iter %d: Model health OK", step)
        return health
    logger.warning("[HEALTH CHECK] iter %d: Found %d corrupted stats!", step, len(health.findings))
    for each in health.findings[:MOST_SHOWN]:
        logger.warning("  %s %s", each.code.value, each.place)
    if health.repaired:
        logger.warning("Auto-sanitized %d BatchNorm statistics.", health.repaired)
    return health


def _are_evidently_sound(patients: Patients) -> bool:
    models = (*patients.models, *map(averaged_model, patients.averages))
    return all(map(is_evidently_sound, models)) and all(map(_is_sound, patients.optimizers))


def _examined(patients: Patients, *, acts: bool) -> Health:
    findings: list[Finding] = []
    left: list[Finding] = []
    repaired = 0
    for model, optimizer, donors in _cases(patients):
        damaged = _outside(diagnose_live(model, optimizer).damaged, patients.legal)
        findings += damaged
        if damaged and acts:
            result = repair_live(model, optimizer, donors=donors)
            repaired += len(result.plan.edits)
            left += _outside(result.after.damaged, patients.legal) if result.after is not None else damaged
        else:
            left += damaged
    return Health(findings=tuple(findings), repaired=repaired, left=tuple(left))


def still_damaged(patients: Patients) -> tuple[Finding, ...]:
    """Return what is wrong with models, optimizers and averages, and change nothing."""
    return () if _are_evidently_sound(patients) else _examined(patients, acts=False).left


def _outside(findings: Iterable[Finding], legal: frozenset[str]) -> list[Finding]:
    return [each for each in findings if each.place not in legal]


def not_finite_buffers(models: Sequence[nn.Module]) -> frozenset[str]:
    """Name the buffers outside of normalisation layers that hold Inf or NaN now."""
    return frozenset(
        name
        for model in models
        for name, buffer in model.named_buffers()
        if buffer.is_floating_point() and buffer.element_size() > 1 and not is_statistic(name)
        if not bool(buffer.isfinite().all())
    )


def infinite_buffers(models: Sequence[nn.Module]) -> frozenset[str]:
    """Name those among them that hold no NaN: masks, as the first forward pass may make them."""
    buffers = {name: each for model in models for name, each in model.named_buffers()}
    return frozenset(name for name in not_finite_buffers(models) if not bool(buffers[name].isnan().any()))


_Model = nn.Module | dict[str, Any]


def _cases(patients: Patients) -> Iterator[tuple[_Model, Optimizer | None, Sequence[nn.Module]]]:
    """Yield models with optimizers, what is left over of either by itself, and averages with what they take from."""
    for model, optimizer in zip_longest(patients.models, patients.optimizers):
        yield {} if model is None else model, optimizer, ()
    sound = [model for model in map(inner_model, patients.models) if is_evidently_sound(model)]
    for each in patients.averages:
        yield averaged_model(each), None, sound


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
