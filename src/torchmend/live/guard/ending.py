"""How a transaction learns where it stands: the end of a backward pass, gradients that were cleared, nested steps."""

from collections.abc import Callable
from types import FrameType

import torch
from torch import Tensor

TO_THE_STEP = 2
"""Frames from a hook's callback to the function that torch puts around an optimizer's step."""


def is_called_from(frame: FrameType | None, outer: FrameType) -> bool:
    """Return whether a frame runs within another; one that an error has left is on no stack any more."""
    while frame is not None and frame is not outer:
        frame = frame.f_back
    return frame is not None


class EndOfBackward:
    """Called by the autograd engine when it has finished, and again after all others that it calls then.

    The engine alone holds it: when a backward pass ends in an error, it is gone.

    Args:
        then: Called the second time.
    """

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then
        self._is_last = False

    def __call__(self) -> None:
        """Queue once more, so that other hooks have finished what they do there; then call."""
        if self._is_last:
            self._then()
        else:
            self._is_last = True
            torch.autograd.Variable._execution_engine.queue_callback(self)


class Mark:
    """A parameter's gradient as it is now, to tell later whether it was cleared, replaced or written to.

    Args:
        parameter: Whose.
    """

    def __init__(self, parameter: Tensor) -> None:
        self._parameter, self._gradient = parameter, parameter.grad
        self._version = -1 if self._gradient is None else self._gradient._version

    @property
    def stands(self) -> bool:
        """Whether it is as it was."""
        same = self._parameter.grad is self._gradient
        return same and (self._gradient is None or self._gradient._version == self._version)
