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


def tell(guard: Guard, loss: Any, *_: Any, batch: Any = None, **__: Any) -> None:
    """Tell the guard a loss that goes backward, and its batch; what has not one element is the framework's business."""
    if isinstance(loss, Tensor) and loss.numel() == 1:
        guard.observe(loss, batch)


def tell_before(owner: Any, name: str, told: Callable[..., None]) -> Callable[[], None]:
    """Have it told what a method is called with, before it is called.

    Args:
        owner: Such as an `Accelerator` or a `Fabric`, whose `backward` has no hook.
        name: Of the method.
        told: Called with the same arguments.

    Returns:
        What takes it back.
    """
    original = getattr(owner, name)

    def method(*arguments: Any, **keywords: Any) -> Any:
        told(*arguments, **keywords)
        return original(*arguments, **keywords)

    def undo() -> None:
        if vars(owner).get(name) is method:
            delattr(owner, name)

    setattr(owner, name, method)
    return undo
