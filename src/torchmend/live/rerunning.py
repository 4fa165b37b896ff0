"""Whether a batch is being run again at the moment: hooks that record steps rest then, and nothing is compiled."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident

import torch

_reruns = 0
_by_thread: Counter[int] = Counter()


@contextmanager
def rerunning() -> Iterator[None]:
    """Say that what this thread runs meanwhile is no step of the training."""
    global _reruns  # noqa: PLW0603  # tracers can follow a number, and nothing that depends on threads
    _reruns += 1
    _by_thread[get_ident()] += 1
    try:
        with torch.compiler.set_stance("force_eager"):  # what is compiled hides its operations
            yield
    finally:
        _by_thread[get_ident()] -= 1
        _reruns -= 1


def is_rerun() -> bool:
    """Return whether this thread is running a batch again."""
    return _reruns > 0 and _by_thread[get_ident()] > 0
