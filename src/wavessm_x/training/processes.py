"""Several processes that train one model: one of them talks, and none waits for ever for one that has ended."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed

from wavessm_x.config import WavessmError
from wavessm_x.data import DataWarning

_SIGNS = ("closed by peer", "reset by peer", "Broken pipe", "Timed out waiting")
"""What gloo, which has no type of error of its own, says of a process that it cannot reach."""


class LeftAloneError(WavessmError):
    """Another process of the training ended, so that this one cannot go on."""


def is_main() -> bool:
    """Return whether this process is the first, or the only one."""
    return not _are_several() or distributed.get_rank() == 0


def leave_talking_to_main() -> None:
    """Keep the other processes from saying what the first says; errors they still tell. Called once they have met."""
    # Gradients of depthwise convolutions have other strides than DDP laid out for them; it says itself: no error.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    if not is_main():
        warnings.simplefilter("ignore", DataWarning)
        for name in ("wavessm_x", "torchmend"):
            logging.getLogger(name).setLevel(logging.ERROR)


def first_told(mine: str) -> tuple[str, str]:
    """Return what the first process with anything to tell tells, and which it is; all have to call this together.

    Args:
        mine: What this process tells; empty for nothing.

    Returns:
        The text, or an empty one; and words to add to a line, empty where there is nothing, or only one process.
    """
    if not _are_several():
        return mine, ""
    told = [""] * distributed.get_world_size()
    distributed.all_gather_object(told, mine)
    return next(((each, f" (in process {rank} of {len(told)})") for rank, each in enumerate(told) if each), ("", ""))


@contextmanager
def together() -> Iterator[None]:
    """Turn what is raised where another process cannot be reached into an error that says so.

    Raises:
        LeftAloneError: Another process ended, or has not answered for as long as the process group waits.
    """
    try:
        yield
    except RuntimeError as error:
        is_of_others = isinstance(error, distributed.DistError) or any(sign in str(error) for sign in _SIGNS)
        if not (_are_several() and is_of_others):
            raise
        raise LeftAloneError(
            f"Process {distributed.get_rank()} of {distributed.get_world_size()} cannot reach another one, which has "
            "most likely ended; its own message says why. Checkpoints are as they were saved last: --resume goes on."
        ) from error


def _are_several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
