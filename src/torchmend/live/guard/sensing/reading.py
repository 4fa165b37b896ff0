"""What is seen at the end of a backward pass: a few fused reductions and one read from the device."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchmend.live.guard.decisions import Observation
from torchmend.live.guard.slots import Watched

LEAST_VARIANCE = 1e-5
"""A variance below counts as this where growth is measured: BatchNorm adds as much itself."""

_WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Scalars of one step, still on the device.

    Args:
        step: The step's number.
        values: One each for the gradients' norm, four for each group of buffers, and the loss and the scaler's factor
            if they are known; float32, or float64 if one of them is; then those of sampled sensors; shape (n,).
        groups: How many groups of buffers.
        has_loss: Whether the loss is among them.
        has_scale: Whether the factor is.
        extras: Of the sampled sensors.
    """

    step: int
    values: Tensor
    groups: int
    has_loss: bool
    has_scale: bool
    extras: "tuple[Extra, ...]" = ()

    @property
    def count(self) -> int:
        """How many of the values are of every step."""
        return 1 + 4 * self.groups + self.has_loss + self.has_scale

    @property
    def is_bad(self) -> Tensor:
        """A boolean scalar on the device: a norm or a buffer that is not finite, or a variance below zero."""
        seen = self.values[: 1 + 4 * self.groups]
        lowest = seen[1 : 1 + 4 * self.groups : 4]
        return ~seen.isfinite().all() | (lowest < 0).any()


@dataclass(frozen=True, slots=True)
class Extra:
    """Figures of a sampled sensor, which are read along with those of a step.

    Args:
        values: Float32, shape (n,), on any device.
        then: Called with them when they have been read.
    """

    values: Tensor
    then: Callable[[list[float]], None]


@torch.no_grad()
def measure(
    gradients: Sequence[Tensor],
    watched: Sequence[Watched],
    loss: Tensor | None = None,
    scale: Tensor | None = None,
    extras: Sequence[Extra] = (),
    step: int = 0,
) -> Figures:
    """Reduce gradients, buffers and the loss to a few scalars; nothing is read from the device.

    Args:
        gradients: On any devices, of any float or complex type, sparse ones too.
        watched: Groups of buffers.
        loss: A tensor of one element, if it is known.
        scale: The factor on the gradients, a tensor of one element, if there is one.
        extras: Figures of sampled sensors, to be read along.
        step: The step's number.
    """
    scalars = [_total_norm([dense(each) for each in gradients])]
    for each in watched:
        scalars += _bounds(each)
    for known in (loss, scale):
        if known is not None:
            scalars.append(known.detach().reshape(()))
    values = _side_by_side(scalars)
    if extras:
        values = torch.cat([values, *(each.values.to(values) for each in extras)])
    return Figures(
        step=step,
        values=values,
        groups=len(watched),
        has_loss=loss is not None,
        has_scale=scale is not None,
        extras=tuple(extras),
    )


def observation(figures: Figures, values: list[float]) -> Observation:
    """Read figures as what was seen, once their values are on the host; what they accuse is not confirmed yet.

    What belongs to sampled sensors is told to them.
    """
    end = figures.count
    for each in figures.extras:
        each.then(values[end : end + each.values.numel()])
        end += each.values.numel()
    norm = values[0]
    sound, valid, jump = True, True, 1.0
    at = 1
    for _ in range(figures.groups):
        lowest, growth, least, most = values[at : at + 4]
        sound = sound and math.isfinite(least) and math.isfinite(most)
        valid = valid and not lowest < 0
        jump = max(jump, growth)
        at += 4
    scale = values[figures.count - 1] if figures.has_scale else 1.0
    return Observation(
        step=figures.step,
        gradient_norm=norm / scale if scale > 0 else norm,
        gradients_finite=math.isfinite(norm),
        buffers_finite=sound,
        variances_valid=valid,
        variance_jump=jump,
        loss=values[at] if figures.has_loss else None,
        scale=scale if scale > 0 else 1.0,
    )


@torch.no_grad()
def confirmed(seen: Observation, gradients: Mapping[str, Tensor], first_bad: Callable[[], str]) -> Observation:
    """Look element by element at what figures accuse, and name it. Reads from the device where they accuse something.

    A 2-norm may overflow on finite elements, and is then worked out in float64.

    Args:
        seen: What the figures told.
        gradients: By the names of their parameters.
        first_bad: Names the first watched buffer that is not as it should be; empty if all are.
    """
    if not seen.gradients_finite:
        name = next((name for name, each in gradients.items() if not bool(dense(each).isfinite().all())), "")
        if name:
            seen = replace(seen, gradient=name)
        else:
            wide = _wide_norm([dense(each) for each in gradients.values()]) / seen.scale
            seen = replace(seen, gradients_finite=True, gradient_norm=wide, overflowed=True)
    if not (seen.buffers_finite and seen.variances_valid):
        name = first_bad()
        if name:
            return replace(seen, buffer=name)
        return replace(seen, buffers_finite=True, variances_valid=True)
    return seen


def dense(gradient: Tensor) -> Tensor:
    """Return a gradient's elements as a plain tensor of real numbers; of a sharded one, its part."""
    if type(gradient) is Tensor and gradient.layout is torch.strided and not gradient.is_complex():
        return gradient
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    local = values.to_local() if hasattr(values, "to_local") else values
    return torch.view_as_real(local) if local.is_complex() else local


def _total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the 2-norm of all elements; half types are summed in float32, where they cannot overflow so soon."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel():
            groups.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    if not groups:
        return torch.zeros(())
    norms = [torch.stack(torch._foreach_norm(group, 2, _WIDER.get(kind, kind))) for (_, kind), group in groups.items()]
    if len(norms) > 1:
        kind = torch.float64 if any(each.dtype is torch.float64 for each in norms) else torch.float32
        norms = [torch.cat([each.to(norms[0].device, kind) for each in norms])]
    total: Tensor = torch.linalg.vector_norm(norms[0])
    return total


def _bounds(watched: Watched) -> tuple[Tensor, ...]:
    """Return the smallest variance, by what factor one grew most, and the smallest and largest value of all.

    Each is NaN where there is one. The first two are worked out together: a variance below zero has grown by a factor
    below zero.
    """
    now = watched.now.float() if watched.now.dtype in _WIDER else watched.now
    if not now.numel():
        return (now.new_zeros(()),) * 4
    least, most = torch.aminmax(now)
    if not watched.variances:
        return now.new_zeros(()), now.new_ones(()), least, most
    variances = now[: watched.variances]
    if watched.before is None:
        return variances.min(), now.new_ones(()), least, most
    lowest, growth = torch.aminmax(variances / watched.before[: watched.variances].clamp_min(LEAST_VARIANCE))
    return lowest, growth, least, most


def _side_by_side(scalars: Sequence[Tensor]) -> Tensor:
    """Stack scalars where the first lies, as float32, or float64 if one of them is."""
    home = next((each.device for each in scalars if each.device.type != "cpu"), scalars[0].device)
    if all(each.dtype is torch.float32 and each.device == home for each in scalars):
        return torch.stack(tuple(scalars))
    kind = torch.float64 if any(each.dtype is torch.float64 for each in scalars) else torch.float32
    return torch.stack([each.to(home, kind) for each in scalars])


def _wide_norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))
