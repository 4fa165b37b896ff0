"""What several adapters need: a framework's `backward` that tells the guard each loss first."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from torchmend import Guard


def told(guard: Guard, loss: Any) -> None:
    """Tell the guard a loss; what is not a tensor of one element is the framework's own business."""
    if isinstance(loss, Tensor) and loss.numel() == 1:
        guard.observe(loss)


def tell_backward(owner: Any, tell: Callable[[Any], None]) -> Callable[[], None]:
    """Have each loss told that `owner.backward` is called on, before it is scaled or divided.

    Args:
        owner: An `Accelerator` or a `Fabric`: neither has a hook there.
        tell: Called with the loss.

    Returns:
        What takes it back.
    """
    original = owner.backward

    def backward(loss: Any, *arguments: Any, **keywords: Any) -> Any:
        tell(loss)
        return original(loss, *arguments, **keywords)

    def undo() -> None:
        if vars(owner).get("backward") is backward:
            del owner.backward

    owner.backward = backward
    return undo
