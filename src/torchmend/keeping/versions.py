"""A checked draft becomes a checkpoint: the older one steps aside, the draft gets its name, the oldest goes.

Every step leaves the folder whole: a stamp is written before the file that it is of gets its name, a file that is
replaced has a second name by then, and only what has a valid stamp of the same family is ever removed.
"""

import errno
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from torchmend.facts.codes import Severity
from torchmend.facts.errors import UserError
from torchmend.facts.findings import Finding
from torchmend.keeping.arguments import whole_number
from torchmend.keeping.copying import copy_file
from torchmend.keeping.drafts import draft_folder_beside, sweep, sync_file, sync_files, sync_folder
from torchmend.keeping.families import Family, numbered
from torchmend.keeping.stamps import (
    ENDING,
    Kind,
    Stamp,
    now,
    recorded,
    signature,
    stamp_path,
    stamped_path,
    write_stamp,
)
from torchmend.keeping.stamps import valid_stamp as stamp_of

KEPT_IN_QUARANTINE = 3
"""Corrupted states of one family that are kept, the newest."""

MODES = ("max", "min")

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""A disk or a quota is full, or a file may not become larger: errors that do not say where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What became of a state that was to be saved.

    Args:
        path: Where it is now: under its name, or in quarantine.
        healthy: Whether nothing in it is an error; if not, it is in quarantine, and nothing was replaced.
        findings: What was found in it. Of a state that a quick look cleared, notes are not made.
        step: Of the training, where that is known.
        best: Where it is kept as the best one, if it is.
        removed: Older checkpoints that were removed.
    """

    path: Path
    healthy: bool
    findings: tuple[Finding, ...] = ()
    step: int | None = None
    best: Path | None = None
    removed: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How a family of checkpoints is to be kept.

    Args:
        family: Their names.
        keep: How many healthy versions to keep, 1 or more.
        metric: Of the state that is saved; without one there is no best.
        mode: Whether a higher ("max") or a lower ("min") metric is better.
    """

    family: Family
    keep: int = 3
    metric: float | None = None
    mode: str = "max"

    def __post_init__(self) -> None:
        if whole_number(self.keep, "keep") < 1:
            raise UserError(f"keep is {self.keep!r}. Pass a whole number from 1 on; the newest is always kept.")
        if self.mode not in MODES:
            raise UserError(f"mode is {self.mode!r}. Pass one of {', '.join(MODES)}.")


@contextmanager
def draft_folder(family: Family) -> Iterator[Path]:
    """Make the family's folder if need be, and a hidden one in it to write into; remove that in the end.

    The error of a full disk gets the name of what was to be saved.
    """
    family.folder.mkdir(parents=True, exist_ok=True)
    sweep(family.folder / family.name)
    try:
        with draft_folder_beside(family.folder / family.name) as folder:
            yield folder
    except OSError as error:
        if error.errno in _FULL and error.filename is None:
            error.filename = str(family.folder / family.name)
        raise


def publish(draft: Path, wish: Wish, findings: Sequence[Finding], step: int | None) -> Saved:
    """Give a complete draft its name, or put it into quarantine if one of the findings is an error.

    Args:
        draft: A file or a folder in the family's `draft_folder`.
        wish: How it is to be kept.
        findings: What was found in it.
        step: Of the training.

    Raises:
        UserError: The name needs a step.
        OSError: The disk is full, or a file cannot be used. What stood there before still does.
    """
    target = wish.family.target(step)
    sync_files(each for each in ([draft] if draft.is_file() else draft.rglob("*")) if each.is_file())
    errors = [each for each in findings if each.severity is Severity.ERROR]
    stamp = _stamp(draft, target, wish.family, errors, step)
    if errors:
        path = _quarantine(draft, target, wish.family, stamp)
        return Saved(path=path, healthy=False, findings=tuple(findings), step=step)
    _place(draft, target, wish.family, stamp)
    best = _keep_best(draft.parent, target, wish, stamp)
    removed = _prune(wish.family.folder, wish.family.name, Kind.VERSION, wish.keep)
    sync_folder(wish.family.folder)
    return Saved(path=target, healthy=True, findings=tuple(findings), step=step, best=best, removed=removed)


def _stamp(draft: Path, target: Path, family: Family, errors: Sequence[Finding], step: int | None) -> Stamp:
    size, mtime_ns = _signature(draft)
    return Stamp(
        name=target.name,
        of=family.name,
        kind=Kind.QUARANTINED if errors else Kind.VERSION,
        number=_next_number(family.quarantine if errors else family.folder, family.name),
        saved=now(),
        verdict="corrupted" if errors else "healthy",
        codes=tuple(sorted({each.code.value for each in errors})),
        step=step,
        size=size,
        mtime_ns=mtime_ns,
    )


def _signature(path: Path) -> tuple[int, int]:
    found = signature(path)
    if found is None:
        raise FileNotFoundError(2, "No such file", str(path))
    return found


# Names


def _place(draft: Path, target: Path, family: Family, stamp: Stamp) -> None:
    _set_aside(draft.parent, target, family, stamp.number)
    write_stamp(target, stamp, draft.parent / ENDING)
    if draft.is_dir() and target.is_file():
        target.unlink()  # it has its second name
    draft.replace(target)
    sync_folder(target.parent)


def _set_aside(scratch: Path, target: Path, family: Family, number: int) -> None:
    """Give what stands under a name a second, numbered one; a folder is renamed, since it cannot have two.

    What was saved by others is kept like this too, without a stamp: it will never be removed.
    """
    if not target.exists() or any(_is_same(target, each) for each in _numbered_names(target)):
        return
    stamp = stamp_of(target)
    ours = stamp is not None and stamp.of == family.name
    first = stamp.number if stamp is not None and ours else number
    aside = next(each for each in numbered(target, first) if not each.exists() and not stamp_path(each).exists())
    if stamp is not None and ours:
        write_stamp(aside, stamp, scratch / ENDING)
    if target.is_dir():
        target.rename(aside)
    else:
        _link(target, aside, scratch)


def _numbered_names(target: Path) -> Iterator[Path]:
    """Yield the files beside a target that are called as numbered versions of it are."""
    start, end = f"{target.stem}.", target.suffix
    for each in target.parent.iterdir():
        number = each.name.removeprefix(start).removesuffix(end)
        if number.isdecimal() and each.name == f"{start}{number}{end}":
            yield each


def _is_same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and one.samefile(other)


def _link(path: Path, name: Path, scratch: Path) -> None:
    try:
        os.link(path, name)
    except (OSError, AttributeError):  # a system, or a file system, without hard links
        _copy(path, scratch / "copy").replace(name)


def _copy(path: Path, draft: Path) -> Path:
    """Copy a file or a folder."""
    if path.is_file():
        copy_files({path: draft})
    else:
        copy_files({each: draft / each.relative_to(path) for each in path.rglob("*") if each.is_file()})
    return draft


def copy_files(copies: Mapping[Path, Path]) -> None:
    """Copy files with their times and permissions to new names, and wait until the copies are on the disk."""
    for source, copy in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.touch()
        copy_file(source, copy)
        sync_file(copy)
        shutil.copystat(source, copy)


# Quarantine


def _quarantine(draft: Path, target: Path, family: Family, stamp: Stamp) -> Path:
    family.quarantine.mkdir(parents=True, exist_ok=True)
    names = numbered(family.quarantine / target.name, stamp.number)
    path = next(each for each in names if not each.exists() and not stamp_path(each).exists())
    write_stamp(path, stamp, draft.parent / ENDING)
    draft.rename(path)
    _prune(family.quarantine, family.name, Kind.QUARANTINED, KEPT_IN_QUARANTINE)
    sync_folder(family.quarantine)
    return path


# The best


def _keep_best(scratch: Path, path: Path, wish: Wish, stamp: Stamp) -> Path | None:
    """Copy a checkpoint as the best one if its metric beats that of the best so far; NaN and Inf never do.

    It is a copy, since a second name would lose its content where the first is written to in place.
    """
    best, metric = wish.family.best, wish.metric
    if metric is None or not math.isfinite(metric):
        return None
    earlier = stamp_of(best)
    ours = earlier is not None and earlier.of == wish.family.name and earlier.kind is Kind.BEST
    if ours and earlier is not None and earlier.metric is not None and earlier.mode == wish.mode:
        beaten = metric > earlier.metric if wish.mode == "max" else metric < earlier.metric
        if not beaten:
            return None
    if not ours or best.is_dir():
        _set_aside(scratch, best, wish.family, stamp.number)
    draft = _copy(path, scratch / "best")
    size, mtime_ns = _signature(draft)
    its = replace(stamp, kind=Kind.BEST, metric=metric, mode=wish.mode, size=size, mtime_ns=mtime_ns)
    write_stamp(best, its, scratch / ENDING)
    draft.replace(best)
    _prune(best.parent, wish.family.name, Kind.BEST, 1)
    return best


# Rotation


def _stamped(folder: Path, of: str) -> list[tuple[Path, tuple[Stamp, ...]]]:
    """List what has stamps of a family in a folder, valid or not."""
    if not folder.is_dir():
        return []
    stamps = [(stamped_path(each), recorded(each)) for each in folder.iterdir() if each.name.endswith(ENDING)]
    return [(path, known) for path, known in stamps if known and known[0].of == of and known[0].name == path.name]


def _next_number(folder: Path, of: str) -> int:
    return 1 + max((each.number for _, known in _stamped(folder, of) for each in known), default=0)


def _prune(folder: Path, of: str, kind: Kind, keep: int) -> tuple[Path, ...]:
    """Remove the oldest of a family beyond the newest few, and stamps of what is gone."""
    versions: list[tuple[int, Path]] = []
    for path, known in _stamped(folder, of):
        valid = next((each for each in known if each.fits(path)), None)
        if valid is not None and valid.kind is kind:
            versions.append((valid.number, path))
        elif not path.exists():
            stamp_path(path).unlink(missing_ok=True)
    removed = tuple(path for _, path in sorted(versions, reverse=True)[keep:])
    for path in removed:
        remove(path)
    return removed


def remove(path: Path) -> None:
    """Remove a checkpoint and its stamp; a folder steps aside first, so that none is ever left half removed."""
    if path.is_dir():
        with draft_folder_beside(path) as aside:
            path.rename(aside / path.name)
    else:
        path.unlink(missing_ok=True)
    stamp_path(path).unlink(missing_ok=True)
