"""Under torch.distributed every rank takes the same decision: what one of them saw, all of them know."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from torchmend.facts.codes import Code
from torchmend.facts.errors import UserError
from torchmend.live.guard.decisions import Decision, Observation
from torchmend.live.guard.ownership import averaged_model, is_compiled, parameters_of
from torchmend.live.guard.sensing.reading import dense
from torchmend.live.guard.wrapping import Hook, Wrapping

T = TypeVar("T")

SMALL = 1 << 16
"""Elements of the largest gradient whose norm is worth knowing only to name a rank."""

FAR = 2.0
"""A figure stands out among those of the ranks when it is so many times the next one."""

_SIGNS: tuple[Callable[[Observation], bool], ...] = (
    lambda seen: not (seen.buffers_finite and seen.variances_valid),
    lambda seen: seen.loss is not None and not math.isfinite(seen.loss),
    lambda seen: not seen.own_gradient_finite,
    lambda seen: not seen.gradients_finite,
)
"""Of a rank at fault. Each may show on all ranks, and tells nothing then: synchronised statistics, averaged gradients."""


def agree(seen: Observation, models: Sequence[nn.Module]) -> Observation:
    """Return the worst of what the ranks saw, where the models are trained by several together.

    One reduction of seven numbers, and what each rank saw where something is wrong; ranks must come here together, as
    they do at the end of a backward pass.

    Args:
        seen: What this rank saw.
        models: As they are trained; nothing is exchanged unless one is wrapped in DistributedDataParallel.

    Raises:
        UserError: The ranks do not come here together, because they are within DDP's `join`.
    """
    if not trained_together(models):
        return seen
    _refuse_uneven(models)
    loss = -math.inf if seen.loss is None else math.inf if math.isnan(seen.loss) else seen.loss
    norm, jump = (math.inf if math.isnan(each) else each for each in (seen.gradient_norm, seen.variance_jump))
    flags = [not seen.gradients_finite, not seen.buffers_finite, not seen.variances_valid]
    numbers = [*map(float, flags), norm, loss, jump, float(seen.overflowed)]
    gradients, buffers, variances, norm, loss, jump, overflowed = _largest(numbers, models)
    is_bad = bool(gradients or buffers or variances or loss == math.inf)
    everyone = gathered(seen, models) if is_bad else []
    return replace(
        seen,
        gradients_finite=not gradients,
        buffers_finite=not buffers,
        variances_valid=not variances,
        gradient_norm=norm,
        variance_jump=jump,
        overflowed=bool(overflowed),
        loss=None if loss == -math.inf else loss,
        # refusals are counted by names, on all ranks alike: those of the first rank with any
        gradient=next((each.gradient for each in everyone if each.gradient), ""),
        buffer=next((each.buffer for each in everyone if each.buffer), ""),
        rank=next((rank for rank in (apart([*map(sign, everyone)]) for sign in _SIGNS) if rank is not None), None),
    )


def with_rank(decision: Decision, seen: Observation, models: Sequence[nn.Module]) -> Decision:
    """Name the rank whose loss or variance stands out, where a step is out of all proportion; ranks come together.

    Args:
        decision: The same on all ranks.
        seen: What this rank saw, before the ranks agreed.
        models: As they are trained.
    """
    is_spike = any(each.code is Code.TRAINING_SPIKE for each in decision.findings)
    if decision.rank is not None or not is_spike or not trained_together(models):
        return decision
    everyone = gathered((seen.loss or 0.0, seen.variance_jump), models)
    found = (_standing_out(each) for each in zip(*everyone, strict=True))
    return replace(decision, rank=next((rank for rank in found if rank is not None), None))


def apart(signs: Sequence[bool | int]) -> int | None:
    """Return the first rank with a sign, unless all have it: then it tells nothing about any of them."""
    return None if all(signs) else next((rank for rank, has in enumerate(signs) if has), None)


def _standing_out(figures: Sequence[float]) -> int | None:
    *_, second, most = sorted(figures)
    return list(figures).index(most) if most > FAR * second and most > 0 else None


def by_rank(level: int, models: Sequence[nn.Module]) -> list[int]:
    """Return the level of each rank that trains the models; they must come here together. Of one alone, its own."""
    if not trained_together(models):
        return [level]
    levels = [0.0] * distributed.get_world_size()
    levels[distributed.get_rank()] = float(level)
    return [int(each) for each in _largest(levels, models)]


def gathered(mine: T, models: Sequence[nn.Module]) -> list[T]:
    """Return what each rank brings here, in their order; they must come together. Of one alone, its own."""
    if not trained_together(models):
        return [mine]
    everyone: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, mine)
    return everyone


@torch.no_grad()
def take_from(rank: int, models: Sequence[nn.Module], optimizers: Sequence[Optimizer], averages: Sequence[Any]) -> None:
    """Give all ranks the weights, moments and averages of one: they were the same everywhere, and a rank damaged its own.

    Buffers stay, for each rank may have its own.

    Args:
        rank: Whose are sound.
        models: As they are trained by all ranks.
        optimizers: Theirs.
        averages: Of them.
    """
    device = _device(models)
    for tensor in _shared_by_ranks(models, optimizers, averages):
        sent = tensor.detach().to(device, copy=True).contiguous()
        distributed.broadcast(sent, src=rank)
        tensor.data.copy_(sent)


def _shared_by_ranks(
    models: Sequence[nn.Module], optimizers: Sequence[Optimizer], averages: Sequence[Any]
) -> Iterator[Tensor]:
    for model in (*models, *map(averaged_model, averages)):
        yield from model.parameters()
    for optimizer in optimizers:
        for parameter in parameters_of(optimizer):
            state = optimizer.state.get(parameter, {})
            yield from (state[name] for name in sorted(state) if isinstance(state[name], Tensor))


@torch.no_grad()
def average(parameters: Sequence[Tensor], models: Sequence[nn.Module]) -> None:
    """Average gradients over the ranks, if DDP did so in the backward pass that was just dropped and its sum with it.

    Args:
        parameters: Whose gradients.
        models: As they are trained.
    """
    if not trained_together(models) or not all(each.require_backward_grad_sync for each in _wrapped(models)):
        return
    are_used = _largest([float(each.grad is not None) for each in parameters], models)
    for parameter in (each for each, is_used in zip(parameters, are_used, strict=True) if is_used):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)
        parameter.grad /= distributed.get_world_size()


class OwnGradient:
    """Whether this rank's own gradient was finite, before DDP averaged it with those of the others.

    One gradient is looked at: the first small one in the order of the model, which the backward pass reaches late.

    Args:
        models: As they are trained; nothing is looked at unless several ranks train them.
        optimizer: Whose parameters.
        wrapping: Takes the hook away again.
    """

    def __init__(self, models: Sequence[nn.Module], optimizer: Optimizer, wrapping: Wrapping) -> None:
        self._norm: Tensor | None = None
        own = [each for each in parameters_of(optimizer) if each.requires_grad]
        if own and trained_together(models):
            watched = next((each for each in own if each.numel() <= SMALL), own[0])
            wrapping.hook(watched.register_hook(Hook(self._look)))  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _look(self, gradient: Tensor) -> None:
        self._norm = torch.linalg.vector_norm(dense(gradient), math.inf)

    def noted(self, seen: Observation) -> Observation:
        """Note it in what was seen; reads from the device where a gradient is not finite."""
        norm, self._norm = self._norm, None
        if norm is None or seen.gradients_finite:
            return seen
        return replace(seen, own_gradient_finite=math.isfinite(float(norm)))


def trained_together(models: Sequence[nn.Module]) -> bool:
    """Return whether several ranks train the models together."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return False
    return bool(_wrapped(models))


def _wrapped(models: Sequence[nn.Module]) -> list[DistributedDataParallel]:
    inside = (each._orig_mod if is_compiled(each) else each for each in models)
    return [each for each in inside if isinstance(each, DistributedDataParallel)]


def _refuse_uneven(models: Sequence[nn.Module]) -> None:
    """Raise UserError within `join`: ranks whose data has ended take no part in the guard's reduction."""
    if any(each._join_config.enable for each in _wrapped(models)):
        raise UserError(
            "The guard does not support uneven inputs (`with model.join():`): a rank whose batches have ended would "
            "leave the others waiting for its verdict. Give all ranks as many batches, with DistributedSampler or "
            "drop_last=True, or leave join out."
        )


def _largest(numbers: Sequence[float], models: Sequence[nn.Module]) -> list[float]:
    shared = torch.tensor(numbers, dtype=torch.float64, device=_device(models))
    distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
    return [float(each) for each in shared.tolist()]


def _device(models: Sequence[nn.Module]) -> torch.device:
    return next(parameter.device for model in models for parameter in model.parameters())
