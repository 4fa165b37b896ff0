"""What is seen at the end of a backward pass: a few fused reductions and one read from the device."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchmend.live.guard.buffers import Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What one read told.

    Args:
        gradient_norm: The 2-norm of all gradients; 0.0 without any.
        gradients_finite: Whether every element of every gradient is finite.
        buffers_finite: Whether every watched buffer is.
        variances_valid: Whether no watched running variance is below zero.
        loss: As it was observed; None if it was not.
        gradient: The first gradient that is not finite, by its parameter's name; empty if all are.
        buffer: The first watched buffer that is not as it should be, by name.
    """

    gradient_norm: float = 0.0
    gradients_finite: bool = True
    buffers_finite: bool = True
    variances_valid: bool = True
    loss: float | None = None
    gradient: str = ""
    buffer: str = ""

    @property
    def origin(self) -> str:
        """The first tensor that is not as it should be: the forward pass comes before the backward pass."""
        return self.buffer or self.gradient


@torch.no_grad()
def look(gradients: Mapping[str, Tensor], buffers: Sequence[Slot], loss: Tensor | None) -> Sight:
    """Look at gradients, buffers and the loss; one transfer if all is well.

    A norm that is not finite is confirmed element by element before anything is called damaged: a 2-norm may
    overflow on finite elements, and is then worked out in float64.

    Args:
        gradients: By the names of their parameters; on any devices, of any float or complex type, sparse ones too.
        buffers: Which are watched.
        loss: A scalar, if it is known.
    """
    dense = [_dense(each) for each in gradients.values()]
    variances = [tensor for slot in buffers if slot.key == "running_var" and (tensor := slot.tensor) is not None]
    others = [tensor for slot in buffers if slot.key != "running_var" and (tensor := slot.tensor) is not None]
    home = (dense or variances or others or [torch.zeros(())])[0].device
    parts = [_total_norm(dense, home), *_extremes(variances, others, home)]
    if loss is not None:
        parts.append(_at_home(loss.detach(), home).reshape(()))
    norm, lowest, least, most, *seen_loss = torch.stack(parts).tolist()
    finite = math.isfinite(norm)
    gradient = buffer = ""
    if not finite:
        gradient = _first_not_finite(gradients)
        finite = not gradient
        norm = norm if gradient else _wide_norm(dense)
    sound, valid = math.isfinite(least) and math.isfinite(most), not lowest < 0
    if not (sound and valid):
        buffer = _first_bad(buffers)
        sound, valid = (sound, valid) if buffer else (True, True)  # float64 beyond float32's range
    return Sight(
        gradient_norm=norm,
        gradients_finite=finite,
        buffers_finite=sound,
        variances_valid=valid,
        loss=seen_loss[0] if seen_loss else None,
        gradient=gradient,
        buffer=buffer,
    )


def _dense(gradient: Tensor) -> Tensor:
    if type(gradient) is Tensor and gradient.layout is torch.strided and not gradient.is_complex():
        return gradient
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    local = values.to_local() if hasattr(values, "to_local") else values
    return torch.view_as_real(local) if local.is_complex() else local


def _total_norm(tensors: Sequence[Tensor], home: torch.device) -> Tensor:
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel():
            groups.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    if not groups:
        return torch.zeros((), device=home)
    stacks = [_at_home(torch.stack(torch._foreach_norm(group)), home) for group in groups.values()]
    total: Tensor = torch.linalg.vector_norm(stacks[0] if len(stacks) == 1 else torch.cat(stacks))
    return total


def _extremes(variances: Sequence[Tensor], others: Sequence[Tensor], home: torch.device) -> tuple[Tensor, ...]:
    """Return the smallest variance, and the smallest and the largest value of all; NaN where there is one."""
    flat = [_at_home(tensor.detach().reshape(-1), home) for tensor in (*variances, *others) if tensor.numel()]
    if not flat:
        return (torch.zeros((), device=home),) * 3
    joined = torch.cat(flat)
    count = sum(tensor.numel() for tensor in variances)
    lowest = joined[:count].min() if count else joined.new_zeros(())
    return lowest, *torch.aminmax(joined)


def _at_home(tensor: Tensor, home: torch.device) -> Tensor:
    if tensor.dtype is torch.float32 and tensor.device == home:
        return tensor
    return tensor.to(home, torch.float32)


def _first_not_finite(gradients: Mapping[str, Tensor]) -> str:
    return next((name for name, each in gradients.items() if not bool(_dense(each).isfinite().all())), "")


def _first_bad(buffers: Sequence[Slot]) -> str:
    for slot in buffers:
        tensor = slot.tensor
        if tensor is not None and not bool(tensor.isfinite().all()):
            return slot.name
        if tensor is not None and slot.key == "running_var" and bool((tensor < 0).any()):
            return slot.name
    return ""


def _wide_norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))
