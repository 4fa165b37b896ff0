"""Under torch.distributed every rank takes the same decision: what one of them saw, all of them know."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import distributed, nn

from torchmend.live.guard.sensors import Sight


def agree(sight: Sight, models: Sequence[nn.Module]) -> Sight:
    """Return the worst of what the ranks saw, where the models are trained by several together.

    One reduction of five numbers; ranks must come here together, as they do at the end of a backward pass.

    Args:
        sight: What this rank saw.
        models: As they are trained; nothing is exchanged unless one is wrapped in DistributedDataParallel.
    """
    if not _trained_together(models):
        return sight
    device = next(parameter.device for model in models for parameter in model.parameters())
    loss = -math.inf if sight.loss is None else math.inf if math.isnan(sight.loss) else sight.loss
    norm = math.inf if math.isnan(sight.gradient_norm) else sight.gradient_norm
    flags = [not sight.gradients_finite, not sight.buffers_finite, not sight.variances_valid]
    shared = torch.tensor([*map(float, flags), norm, loss], dtype=torch.float64, device=device)
    distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
    gradients, buffers, variances, norm, loss = shared.tolist()
    elsewhere = "another rank"
    return replace(
        sight,
        gradients_finite=not gradients,
        buffers_finite=not buffers,
        variances_valid=not variances,
        gradient_norm=norm,
        loss=None if loss == -math.inf else loss,
        gradient=sight.gradient or (elsewhere if gradients else ""),
        buffer=sight.buffer or (elsewhere if buffers or variances else ""),
    )


def _trained_together(models: Sequence[nn.Module]) -> bool:
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return False
    return any(isinstance(model, nn.parallel.DistributedDataParallel) for model in models)
