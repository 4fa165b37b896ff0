"""Whether a batch is being run again at the moment: hooks that record steps rest then, and nothing is compiled."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_reruns = 0  # tracers can follow a number, and no context variable


@contextmanager
def rerunning() -> Iterator[None]:
    """Say that what runs meanwhile is no step of the training."""
    global _reruns  # noqa: PLW0603  # hooks on any thread ask
    _reruns += 1
    try:
        with torch.compiler.set_stance("force_eager"):  # what is compiled hides its operations
            yield
    finally:
        _reruns -= 1


def is_rerun() -> bool:
    """Return whether a batch is being run again."""
    return _reruns > 0
