"""Files and folders under construction: hidden, beside what they will become, and gone unless they are renamed."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MARK, _ENDING = ".torchmend-", ".part"

_STALE_SECONDS = 3600.0
"""A draft that nobody has written to for so long is a leftover of a run that was killed."""


@contextmanager
def draft_beside(target: Path) -> Iterator[Path]:
    """Give an empty file, `.NAME.torchmend-xxx.part`, in the target's folder; remove it if it was not renamed."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=_prefix(target), suffix=_ENDING)
    os.close(descriptor)
    draft = Path(name)
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def draft_folder_beside(target: Path) -> Iterator[Path]:
    """Give an empty folder, `.NAME.torchmend-xxx.part`, beside the target; remove it if it was not renamed."""
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=_prefix(target), suffix=_ENDING))
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def is_draft(name: str) -> bool:
    """Return whether a file's name is that of something under construction."""
    return name.startswith(".") and _MARK in name and name.endswith(_ENDING)


def put_in_place(draft: Path, target: Path) -> None:
    """Give a draft its name. An older folder of that name steps aside first, and is removed last."""
    if not (draft.is_dir() and target.exists()):
        draft.replace(target)
        return
    with draft_folder_beside(target) as aside:
        target.rename(aside / target.name)
        try:
            draft.rename(target)
        except BaseException:
            (aside / target.name).rename(target)
            raise


def sweep(target: Path) -> None:
    """Remove drafts of the same target that a killed run left behind an hour ago or earlier.

    Should their run be alive after all (suspended for an hour), it fails when it renames, and nothing is lost.
    """
    latest = time.time() - _STALE_SECONDS
    prefix = _prefix(target)
    with suppress(OSError):  # only a courtesy; what really stands in the way is said by the step that it stops
        for each in target.parent.iterdir():
            ours = each.name.startswith(prefix) and each.name.endswith(_ENDING)
            if not ours or _last_written(each) >= latest:
                continue
            if each.is_dir():
                shutil.rmtree(each)
            else:
                each.unlink()


def _last_written(draft: Path) -> float:
    """Return when a draft, or a file in a draft folder, was last written to, in seconds of the epoch."""
    inside = draft.iterdir() if draft.is_dir() else ()
    return max(float(each.stat().st_mtime) for each in (draft, *inside))


def sync_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def sync_files(paths: Iterable[Path]) -> None:
    """Wait until the bytes of several files are on the disk."""
    for path in paths:
        sync_file(path)


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
    return f".{target.name}{_MARK}"
