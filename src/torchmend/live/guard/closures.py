"""Closures of optimizers that call them once, before all else: called early, so that steps are as without."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class Answered:
    """Stands for a closure that was called already: returns its loss again, and does nothing.

    Args:
        loss: What it returned.
    """

    def __init__(self, loss: Any) -> None:
        self._loss = loss

    def __call__(self) -> Any:
        """Return the loss."""
        return self._loss


def closure_of(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Callable[[], Any] | None:
    """Return the closure that an optimizer's step was called with, unless it was called already.

    Args:
        arguments: Of the step, the optimizer first.
        keywords: The same.
    """
    closure: Callable[[], Any] | None = keywords.get("closure", arguments[1] if len(arguments) > 1 else None)
    return None if isinstance(closure, Answered) else closure


def ask_first(
    _: Optimizer, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Call the closure of a step before it begins, as a hook: what it leaves is judged and skipped as usual."""
    closure = closure_of(arguments, keywords)
    if closure is None:
        return None
    with torch.enable_grad():
        answered = Answered(closure())
    if "closure" in keywords:
        return arguments, {**keywords, "closure": answered}
    return (arguments[0], answered, *arguments[2:]), keywords
