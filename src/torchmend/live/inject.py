"""Plant a fault in a training run, so that its guard can be tested before it is needed."""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Self

import torch
from torch import Tensor, nn

from torchmend.facts.errors import UserError
from torchmend.live.rerunning import is_rerun


class Fault(StrEnum):
    """What is planted, into one element."""

    NAN = "nan"
    INF = "inf"
    LARGE = "large"
    """3e20, or the largest value of a narrower type: finite, and too large to be squared in float32."""


class Where(StrEnum):
    """Where it is planted."""

    INPUT = "input"
    OUTPUT = "output"
    GRADIENT = "gradient"
    """That of the module's first parameter."""
    BUFFER = "buffer"
    """The module's first floating-point buffer, after its forward pass."""
    WEIGHT = "weight"
    """The module's first parameter, before its forward pass."""


class Injection:
    """A planted fault; `remove` takes it away.

    Attributes:
        planted: How often the fault was planted so far.
    """

    def __init__(self, module: nn.Module, fault: Fault, where: Where, at: int, times: int) -> None:
        self.planted = 0
        self._module, self._fault, self._where = module, fault, where
        self._from, self._to = at, at + times
        self._seen = 0
        self._handles: list[Any] = [module.register_forward_pre_hook(self._before)]
        self._handles.append(module.register_forward_hook(self._after))
        if where is Where.GRADIENT:
            self._handles.append(_first_parameter(module).register_hook(self._on_gradient))  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Take the fault away; what it has done already stays."""
        while self._handles:
            self._handles.pop().remove()

    @property
    def _is_due(self) -> bool:
        return self._from < self._seen <= self._to

    def _before(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not module.training:
            return None
        self._seen += not is_rerun()  # a batch that is run again has the fault that it had
        if self._is_due and self._where is Where.WEIGHT:
            self._plant(_first_parameter(module).data)
        if not self._is_due or self._where is not Where.INPUT:
            return None
        if not inputs:
            raise UserError(f"This {type(module).__name__} is called by keywords alone. Plant the fault elsewhere.")
        return (self._with_fault(inputs[0]), *inputs[1:])

    def _after(self, module: nn.Module, _: Any, output: Any) -> Any:
        if not module.training or not self._is_due:
            return None
        if self._where is Where.BUFFER:
            self._plant(_first_buffer(module).data)
        return self._with_fault(output) if self._where is Where.OUTPUT else None

    def _on_gradient(self, gradient: Tensor) -> Tensor | None:
        return self._with_fault(gradient) if self._is_due else None

    def _with_fault(self, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            raise UserError(f"A fault cannot be planted into a tensor of {tensor.dtype}. Plant it elsewhere.")
        fault = torch.zeros_like(tensor, memory_format=torch.contiguous_format)
        fault.view(-1)[0] = self._value(tensor)
        self.planted += not is_rerun()
        return tensor + fault  # a sum lets the fault through to the gradients, as a real one does

    def _plant(self, tensor: Tensor) -> None:
        tensor[(0,) * tensor.dim()] = self._value(tensor)
        self.planted += not is_rerun()

    def _value(self, tensor: Tensor) -> float:
        if self._fault is Fault.LARGE:
            return min(3e20, torch.finfo(tensor.dtype).max)
        return float(self._fault.value)


def inject(
    module: nn.Module, fault: Fault | str = Fault.NAN, where: Where | str = Where.INPUT, *, at: int = 0, times: int = 1
) -> Injection:
    """Plant a fault into one element, in the forward passes of a module in training mode.

    Args:
        module: The model, or a module inside it.
        fault: "nan", "inf" or "large".
        where: "input" or "output" (of a module that takes, or gives, a tensor), "gradient", "buffer", or "weight".
        at: The first forward pass that gets it, counted from 0.
        times: How many in a row.

    Returns:
        A handle that takes it away, also as a context.

    Raises:
        UserError: A word is not one of these, or the module has no such tensor.
    """
    chosen = _chosen(Fault, fault), _chosen(Where, where)
    if chosen[1] in (Where.GRADIENT, Where.WEIGHT):
        _first_parameter(module)
    if chosen[1] is Where.BUFFER:
        _first_buffer(module)
    if at < 0 or times < 1:
        raise UserError(f"at is {at} and times is {times}; they must be 0 or more, and 1 or more.")
    return Injection(module, *chosen, at, times)


def _chosen(kind: Callable[[Any], Any], word: Any) -> Any:
    try:
        return kind(word)
    except ValueError:
        legal = ", ".join(each.value for each in kind)  # type: ignore[attr-defined]
        raise UserError(f"{word!r} is none of {legal}.") from None


def _first_parameter(module: nn.Module) -> nn.Parameter:
    found = next(iter(module.parameters()), None)
    if found is None:
        raise UserError(f"This {type(module).__name__} has no parameters. Name a module that has some.")
    return found


def _first_buffer(module: nn.Module) -> Tensor:
    found = next((each for each in module.buffers() if each.is_floating_point()), None)
    if found is None:
        raise UserError(f"This {type(module).__name__} has no floating-point buffers. Name a module that has some.")
    return found
