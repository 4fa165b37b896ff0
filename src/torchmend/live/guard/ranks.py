"""Under torch.distributed every rank takes the same decision: what one of them saw, all of them know."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import distributed, nn

from torchmend.live.guard.decisions import Observation


def agree(seen: Observation, models: Sequence[nn.Module]) -> Observation:
    """Return the worst of what the ranks saw, where the models are trained by several together.

    One reduction of seven numbers; ranks must come here together, as they do at the end of a backward pass.

    Args:
        seen: What this rank saw.
        models: As they are trained; nothing is exchanged unless one is wrapped in DistributedDataParallel.
    """
    if not _trained_together(models):
        return seen
    loss = -math.inf if seen.loss is None else math.inf if math.isnan(seen.loss) else seen.loss
    norm, jump = (math.inf if math.isnan(each) else each for each in (seen.gradient_norm, seen.variance_jump))
    flags = [not seen.gradients_finite, not seen.buffers_finite, not seen.variances_valid]
    shared = torch.tensor(
        [*map(float, flags), norm, loss, jump, float(seen.overflowed)], dtype=torch.float64, device=_device(models)
    )
    distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
    gradients, buffers, variances, norm, loss, jump, overflowed = shared.tolist()
    elsewhere = "another rank"
    return replace(
        seen,
        gradients_finite=not gradients,
        buffers_finite=not buffers,
        variances_valid=not variances,
        gradient_norm=norm,
        variance_jump=jump,
        overflowed=bool(overflowed),
        loss=None if loss == -math.inf else loss,
        gradient=seen.gradient or (elsewhere if gradients else ""),
        buffer=seen.buffer or (elsewhere if buffers or variances else ""),
    )


def any_rank(flag: bool, models: Sequence[nn.Module]) -> bool:
    """Return whether a flag is set on any rank, where the models are trained by several together."""
    if not _trained_together(models):
        return flag
    shared = torch.tensor(float(flag), device=_device(models))
    distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
    return bool(shared)


def _device(models: Sequence[nn.Module]) -> torch.device:
    return next(parameter.device for model in models for parameter in model.parameters())


def _trained_together(models: Sequence[nn.Module]) -> bool:
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return False
    return any(isinstance(model, nn.parallel.DistributedDataParallel) for model in models)
