"""Under torch.distributed every rank takes the same decision: what one of them saw, all of them know."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from torchmend.facts.codes import Code
from torchmend.facts.errors import UserError
from torchmend.live.guard.decisions import Decision, Observation
from torchmend.live.guard.sensing.reading import dense
from torchmend.live.ownership import averaged_model, is_compiled, parameters_of
from torchmend.live.wrapping import EagerHook, Hook, Wrapping

logger = logging.getLogger("torchmend.guard")

T = TypeVar("T")

SMALL = 1 << 16
"""Elements of the largest gradient whose sum is worth knowing only to name a rank."""

FAR, FAR_OF_INPUTS = 2.0, 1000.0
"""A figure stands out among the ranks' when it is so many times the next one; tails of inputs are long."""

_SIGNS: tuple[Callable[[Observation], bool], ...] = (
    lambda seen: not (seen.buffers_finite and seen.variances_valid),
    lambda seen: seen.loss is not None and not math.isfinite(seen.loss),
    lambda seen: not seen.own_gradient_finite,
    lambda seen: not math.isfinite(seen.own_input),
    lambda seen: not seen.gradients_finite,
)
"""Of a rank at fault. One that shows on all ranks tells nothing: averaged gradients, synchronised statistics."""


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
        rank=named(_at_fault(everyone), models) if is_bad else None,
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
    found = _first(standing_out(each, FAR) for each in zip(*everyone, strict=True))
    return replace(decision, rank=named(found, models))


def apart(signs: Sequence[bool | int]) -> int | None:
    """Return the first rank with a sign, unless all have it: then it tells nothing about any of them."""
    return None if all(signs) else next((rank for rank, has in enumerate(signs) if has), None)


def standing_out(figures: Sequence[float], far: float) -> int | None:
    """Return the rank whose figure is so many times the next one's; None if none is, or they are not above zero."""
    second, most = sorted(figures)[-2:]
    return list(figures).index(most) if most > far * max(second, 0.0) else None


def _at_fault(everyone: Sequence[Observation]) -> int | None:
    by_input = standing_out([each.own_input for each in everyone], FAR_OF_INPUTS)
    return _first((*(apart([*map(sign, everyone)]) for sign in _SIGNS), by_input))


def _first(ranks: Iterable[int | None]) -> int | None:
    return next((rank for rank in ranks if rank is not None), None)


def named(at: int | None, models: Sequence[nn.Module]) -> int | None:
    """Return the number that torchrun gave to one of the ranks that train the models, by its place among them."""
    return None if at is None else distributed.get_global_rank(_group(models), at)


def place_among(models: Sequence[nn.Module]) -> int:
    """Return this rank's place among those that train the models; 0 of one alone."""
    return distributed.get_rank(_group(models)) if trained_together(models) else 0


def by_rank(level: int, models: Sequence[nn.Module]) -> list[int]:
    """Return the level of each rank that trains the models; they must come here together. Of one alone, its own."""
    if not trained_together(models):
        return [level]
    levels = [0.0] * distributed.get_world_size(_group(models))
    levels[distributed.get_rank(_group(models))] = float(level)
    return [int(each) for each in _largest(levels, models)]


def gathered(mine: T, models: Sequence[nn.Module]) -> list[T]:
    """Return what each rank brings here, in their order; they must come together. Of one alone, its own."""
    if not trained_together(models):
        return [mine]
    everyone: list[Any] = [None] * distributed.get_world_size(_group(models))
    distributed.all_gather_object(everyone, mine, group=_group(models))
    return everyone


@torch.no_grad()
def take_from(at: int, models: Sequence[nn.Module], optimizers: Sequence[Optimizer], averages: Sequence[Any]) -> None:
    """Give all ranks the weights, moments and averages of one, which were the same everywhere before the damage.

    Buffers stay, for each rank may have its own.

    Args:
        at: Whose are sound, by its place among the ranks.
        models: As they are trained by all ranks.
        optimizers: Theirs.
        averages: Of them.
    """
    device = _device(models)
    for tensor in _shared_by_ranks(models, optimizers, averages):
        sent = tensor.detach().to(device, copy=True).contiguous()
        distributed.broadcast(sent, group=_group(models), group_src=at)
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
        distributed.all_reduce(parameter.grad, group=_group(models))
        parameter.grad /= distributed.get_world_size(_group(models))


class OwnSide:
    """What this rank alone had, before DDP averaged gradients and layers synchronised statistics: only to name a rank.

    One gradient is looked at: the first small one in the order of the model, which the backward pass reaches late. The
    inputs are, when something is wrong.

    Args:
        models: As they are trained; nothing is looked at unless several ranks train them.
        optimizer: Whose parameters.
        wrapping: Takes the hooks away again.
    """

    def __init__(self, models: Sequence[nn.Module], optimizer: Optimizer, wrapping: Wrapping) -> None:
        self._sum: Tensor | None = None
        self._inputs: list[Tensor] = []
        own = [each for each in parameters_of(optimizer) if each.requires_grad]
        if not own or not trained_together(models):
            return
        watched = next((each for each in own if each.numel() <= SMALL), own[0])
        wrapping.hook(watched.register_hook(Hook(self._on_gradient)))  # type: ignore[no-untyped-call]
        for model in models:
            wrapping.hook(model.register_forward_pre_hook(EagerHook(self._before_forward), with_kwargs=True))

    @torch.no_grad()
    def _on_gradient(self, gradient: Tensor) -> None:
        self._sum = dense(gradient).sum(dtype=torch.float32)

    def _before_forward(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if not module.training:
            return
        leaves = (each for each in tree_leaves((arguments, keywords)) if isinstance(each, Tensor))
        self._inputs = [each.detach() for each in leaves if each.is_floating_point() and each.numel()]

    def noted(self, seen: Observation) -> Observation:
        """Note it in what was seen; reads from the device where something is not as it should be."""
        total, self._sum = self._sum, None
        inputs, self._inputs = self._inputs, []
        if seen.gradients_finite and seen.buffers_finite and seen.variances_valid:
            return seen
        largest = max((_largest_of(each) for each in inputs), default=0.0)
        return replace(seen, own_gradient_finite=total is None or math.isfinite(float(total)), own_input=largest)


def _largest_of(tensor: Tensor) -> float:
    """Return the largest absolute value; infinity for NaN."""
    largest = float(tensor.abs().max())
    return math.inf if math.isnan(largest) else largest


def trained_together(models: Sequence[nn.Module]) -> bool:
    """Return whether several ranks train the models together."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    return bool(_wrapped(models)) and distributed.get_world_size(_group(models)) > 1


def warn_if_alone(models: Sequence[nn.Module]) -> None:
    """Log it where several ranks work together, and none of the models is one that they train together."""
    if not (distributed.is_available() and distributed.is_initialized()) or _wrapped(models):
        return
    if distributed.get_world_size() > 1:
        logger.warning(
            "There are %d ranks, and no model here is in DistributedDataParallel: each rank decides by itself. "
            "If they train one model together, pass the wrapper to the guard, and not the module inside.",
            distributed.get_world_size(),
        )


def _group(models: Sequence[nn.Module]) -> distributed.ProcessGroup:
    """Return the ranks that train the models: not all there are, where others train something else."""
    group: distributed.ProcessGroup = _wrapped(models)[0].process_group
    return group


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
    distributed.all_reduce(shared, op=distributed.ReduceOp.MAX, group=_group(models))
    return [float(each) for each in shared.tolist()]


def _device(models: Sequence[nn.Module]) -> torch.device:
    return next(parameter.device for model in models for parameter in model.parameters())
