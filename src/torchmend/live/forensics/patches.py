"""Operations made safe at the edge of their domain, to try on a failing batch whether that would have helped."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

EPS = 1e-6
"""How far operations are kept from the edge."""

Patch = Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]
"""Takes what an operation was called with, and returns what it is to be called with."""


def _positive(first: Any, *others: Any, **keywords: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (first.clamp_min(EPS), *others), keywords


def _within_one(first: Any, *others: Any, **keywords: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (first.clamp(-1 + EPS, 1 - EPS), *others), keywords


def _not_zero(first: Any, other: Any, *others: Any, **keywords: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not isinstance(other, Tensor):
        return (first, other or EPS, *others), keywords
    floor = EPS if other.is_floating_point() else 1
    return (first, torch.where(other.abs() < floor, torch.full_like(other, floor), other), *others), keywords


def _bounded(first: Any, *others: Any, **keywords: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (first.clamp_max(5.0 if first.dtype is torch.float16 else 20.0), *others), keywords


def _unmasked(first: Any, *others: Any, **keywords: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (first.clamp_min(torch.finfo(first.dtype).min), *others), keywords


def _away_from_zero(first: Any, *others: Any, **keywords: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.where(first.abs() < EPS, torch.full_like(first, EPS), first), *others), keywords


PATCHES: tuple[tuple[tuple[str, ...], Patch, str], ...] = (
    (("sqrt", "log", "log2", "log10", "pow", "rsqrt", "xlogy"), _positive, "keep what {} gets above {:g}"),
    (
        ("norm", "linalg_vector_norm", "vector_norm", "cdist", "std"),
        _away_from_zero,
        "keep what {} gets away from zero, by {:g}",
    ),
    (("acos", "arccos", "asin", "arcsin"), _within_one, "keep what {} gets inside of -1 and 1, by {:g}"),
    (("div", "true_divide", "__truediv__", "divide"), _not_zero, "keep the divisor of {} away from zero, by {:g}"),
    (("reciprocal", "__rtruediv__", "__rdiv__"), _away_from_zero, "keep what {} gets away from zero, by {:g}"),
    (("exp", "expm1", "exp2"), _bounded, "bound what {} gets"),
    (("softmax", "log_softmax"), _unmasked, "mask with the lowest finite number instead of -Inf before {}"),
)
"""Names of operations in torch's Python, what makes them safe, and how that is told."""

_ALIASES = {"linalg_vector_norm": "norm", "safe_softmax": "softmax"}


class Safe(TorchFunctionMode):
    """Makes one kind of operation safe, while it is entered.

    Args:
        names: How it is called in Python.
        patch: Makes it safe.
    """

    def __init__(self, names: tuple[str, ...], patch: Patch) -> None:
        super().__init__()
        self._names, self._patch = names, patch

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self._names and args and isinstance(args[0], Tensor):
            with torch._C.DisableTorchFunction():
                args, kwargs = self._patch(*args, **kwargs)
        return func(*args, **kwargs)


def patch_for(operation: str) -> tuple[Safe, str] | None:
    """Return what makes an operation safe, and how that is told; None where nothing is known.

    Args:
        operation: torch's name of it ("sqrt"), as a localisation gives it.
    """
    name = operation.lstrip("_").rstrip("_")
    name = _ALIASES.get(name, name)
    for names, patch, words in PATCHES:
        if name in names:
            return Safe(names, patch), words.format(name, EPS)
    return None
