"""What several adapters need: their library, and a framework's `backward` that tells the guard each loss first."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from torchmend import Guard


@contextmanager
def needing(library: str) -> Iterator[None]:
    """Say what to install where the library that is imported inside is missing.

    Args:
        library: Its name, which is that of the adapter and of the extra too.

    Raises:
        ImportError: It is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise ImportError(
            f"torchmend.adapters.{library} needs {library.capitalize()}, which is not installed: "
            f"pip install 'torchmend[{library}]'"
        ) from error


def tell(guard: Guard, loss: Any, batch: Any = None) -> None:
    """Tell the guard a loss, and its batch; what is not a tensor of one element is the framework's own business."""
    if isinstance(loss, Tensor) and loss.numel() == 1:
        guard.observe(loss, batch)


def tell_backward(owner: Any, told: Callable[[Any], None]) -> Callable[[], None]:
    """Have each loss told that `owner.backward` is called on, before it is scaled or divided.

    Args:
        owner: An `Accelerator` or a `Fabric`: neither has a hook there.
        told: Called with the loss.

    Returns:
        What takes it back.
    """
    original = owner.backward

    def backward(loss: Any, *arguments: Any, **keywords: Any) -> Any:
        told(loss)
        return original(loss, *arguments, **keywords)

    def undo() -> None:
        if vars(owner).get("backward") is backward:
            del owner.backward

    owner.backward = backward
    return undo
