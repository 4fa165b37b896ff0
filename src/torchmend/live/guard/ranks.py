"""Under torch.distributed every rank takes the same decision: what one of them saw, all of them know."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from torchmend.live.guard.decisions import Observation

T = TypeVar("T")


def agree(seen: Observation, models: Sequence[nn.Module]) -> Observation:
    """Return the worst of what the ranks saw, where the models are trained by several together.

    One reduction of seven numbers, and the names from all ranks where something is wrong; ranks must come here
    together, as they do at the end of a backward pass.

    Args:
        seen: What this rank saw.
        models: As they are trained; nothing is exchanged unless one is wrapped in DistributedDataParallel.
    """
    if not trained_together(models):
        return seen
    loss = -math.inf if seen.loss is None else math.inf if math.isnan(seen.loss) else seen.loss
    norm, jump = (math.inf if math.isnan(each) else each for each in (seen.gradient_norm, seen.variance_jump))
    flags = [not seen.gradients_finite, not seen.buffers_finite, not seen.variances_valid]
    numbers = [*map(float, flags), norm, loss, jump, float(seen.overflowed)]
    gradients, buffers, variances, norm, loss, jump, overflowed = _largest(numbers, models)
    gradient, buffer = _first_names(seen) if gradients or buffers or variances else ("", "")
    return replace(
        seen,
        gradients_finite=not gradients,
        buffers_finite=not buffers,
        variances_valid=not variances,
        gradient_norm=norm,
        variance_jump=jump,
        overflowed=bool(overflowed),
        loss=None if loss == -math.inf else loss,
        gradient=gradient,
        buffer=buffer,
    )


def worst(level: int, models: Sequence[nn.Module]) -> int:
    """Return the highest level of all ranks that train the models together; they must come here together."""
    return int(_largest([float(level)], models)[0]) if trained_together(models) else level


def gathered(value: T, models: Sequence[nn.Module]) -> list[T] | None:
    """Return what each rank has, in order; None where nobody trains the models along. Ranks must come here together."""
    if not trained_together(models):
        return None
    every: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(every, value)
    return every


def _largest(numbers: Sequence[float], models: Sequence[nn.Module]) -> list[float]:
    shared = torch.tensor(numbers, dtype=torch.float64, device=_device(models))
    distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
    return [float(each) for each in shared.tolist()]


def _first_names(seen: Observation) -> tuple[str, str]:
    """Return the names that the first rank with any has: refusals are counted by them, on all ranks alike."""
    names: list[tuple[str, str]] = [("", "")] * distributed.get_world_size()
    distributed.all_gather_object(names, (seen.gradient, seen.buffer))
    gradient, buffer = (next((name for name in each if name), "") for each in zip(*names, strict=True))
    return gradient, buffer


def _device(models: Sequence[nn.Module]) -> torch.device:
    return next(parameter.device for model in models for parameter in model.parameters())


def trained_together(models: Sequence[nn.Module]) -> bool:
    """Return whether several ranks train the models together."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return False
    return any(isinstance(model, nn.parallel.DistributedDataParallel) for model in models)
