"""Files under construction: hidden, beside the file that they will become, and gone unless they are renamed."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_STALE_SECONDS = 3600.0
"""A draft that nobody has written to for so long is a leftover of a run that was killed."""


@contextmanager
def draft_beside(target: Path) -> Iterator[Path]:
    """Give an empty file, `.NAME.torchmend-xxx.part`, in the target's folder; remove it if it was not renamed."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=_prefix(target), suffix=".part")
    os.close(descriptor)
    draft = Path(name)
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def sweep(target: Path) -> None:
    """Remove drafts of the same target that a killed run left behind an hour ago or earlier.

    Should their run be alive after all (suspended for an hour), it fails when it renames, and nothing is lost.
    """
    latest = time.time() - _STALE_SECONDS
    prefix = _prefix(target)
    with suppress(OSError):  # only a courtesy; what really stands in the way is said by the step that it stops
        for each in target.parent.iterdir():
            ours = each.name.startswith(prefix) and each.name.endswith(".part")
            if ours and each.is_file() and each.stat().st_mtime < latest:
                each.unlink()


def sync_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where folders can be synced."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _prefix(target: Path) -> str:
    return f".{target.name}.torchmend-"
