"""How an optimizer is kept from moving: by empty gradients where that is exact, else by putting everything back."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from torchmend.live.ownership import parameters_of

SKIPPED_BY_EMPTY_GRADIENTS = frozenset(
    {"SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "ASGD", "Rprop", "Adafactor",
     "SparseAdam", "Muon"}
)  # fmt: skip
"""torch's own optimizers that leave out a parameter without a gradient, and then change nothing at all."""


def is_skipped_by_empty_gradients(optimizer: Optimizer) -> bool:
    """Return whether an optimizer without gradients moves nothing and counts nothing."""
    kind = type(optimizer)
    return kind.__module__.startswith("torch.optim.") and kind.__name__ in SKIPPED_BY_EMPTY_GRADIENTS


def drop_gradients(parameters: Iterable[Tensor]) -> None:
    """Take the gradients away."""
    for parameter in parameters:
        parameter.grad = None


def silence_gradients(parameters: Iterable[Tensor]) -> None:
    """Put zeros where gradients are: a loop that clips them by hand, or divides them, finds what it expects."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = torch.zeros_like(parameter.grad)


def empty_gradients(parameters: Iterable[Tensor]) -> None:
    """Give every parameter a gradient of zeros, for optimizers that do not ask whether there is one."""
    for parameter in parameters:
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


class Standstill:
    """Parameters and state of an optimizer as they are now, to be put back after a step that must not count.

    Args:
        optimizer: Any optimizer; its step may do what it likes.
    """

    @torch.no_grad()
    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._parameters = [(each, each.detach().clone()) for each in parameters_of(optimizer)]
        self._state = {key: _kept(value) for key, value in optimizer.state.items()}
        self._groups = [{k: _kept(v) for k, v in group.items() if k != "params"} for group in optimizer.param_groups]

    @torch.no_grad()
    def put_back(self) -> None:
        """Put everything back; tensors that were there before keep their identity."""
        for parameter, value in self._parameters:
            parameter.data.copy_(value)
        state = self._optimizer.state
        for key in [key for key in state if key not in self._state]:
            del state[key]
        for key, kept in self._state.items():
            state[key] = _restored(kept)
        for group, kept in zip(self._optimizer.param_groups, self._groups, strict=True):
            for name in group.keys() - kept.keys() - {"params"}:
                del group[name]
            group.update({name: _restored(value) for name, value in kept.items()})


def rebuilt(value: Any, items: Iterable[Any]) -> Any:
    """Return a list, tuple or named tuple of the same type with other items."""
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def _kept(value: Any) -> Any:
    """Copy a state; each tensor as the pair of itself and its elements."""
    if isinstance(value, Tensor):
        return _Kept(value)
    if isinstance(value, dict):
        return {key: _kept(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return rebuilt(value, map(_kept, value))
    return copy.copy(value)


def _restored(value: Any) -> Any:
    if isinstance(value, _Kept):
        return value.put_back()
    if isinstance(value, dict):
        return {key: _restored(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return rebuilt(value, map(_restored, value))
    return value


class _Kept:
    """A tensor and its elements."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._elements = tensor.detach().clone()

    def put_back(self) -> Tensor:
        """Write the elements back, and return the tensor."""
        self._tensor.data.copy_(self._elements)
        return self._tensor
