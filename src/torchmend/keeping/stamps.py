"""Health stamps: what was known of a checkpoint when it was saved, in a small file beside it."""

import json
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

from torchmend.keeping.drafts import sync_file

ENDING = ".health.json"
"""What a stamp's name ends with; before it stands the whole name of the checkpoint."""

_SCHEMA = 1
_LARGEST = 1 << 16
"""Bytes that a stamp may have; ours have less than a thousand."""


class Kind(StrEnum):
    """What a stamped file is kept as."""

    VERSION = "version"
    BEST = "best"
    QUARANTINED = "quarantined"
    PIN = "pin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What is known of one checkpoint. It is valid only for a file of the name, size and time that it gives.

    Args:
        name: The name of the file, without its folder.
        of: The name, or the pattern, under which it was saved.
        kind: What it is kept as.
        number: Counts the checkpoints that were saved under `of`.
        saved: When, in UTC, as ISO 8601.
        verdict: "healthy" or "corrupted".
        codes: The codes of its errors, sorted.
        step: Of the training, where that is known.
        metric: For the best one, the finite value to beat.
        mode: Whether a higher ("max") or a lower ("min") metric is better; empty without a metric.
        size: Of the file, or of all files in the folder, in bytes.
        mtime_ns: When it, or the last file in it, was changed, in nanoseconds of the epoch.
    """

    name: str
    of: str
    kind: Kind
    number: int
    saved: str
    verdict: str
    codes: tuple[str, ...] = ()
    step: int | None = None
    metric: float | None = None
    mode: str = ""
    size: int
    mtime_ns: int

    def fits(self, path: Path) -> bool:
        """Return whether a file is, by its name, size and time, the one that was stamped."""
        return path.name == self.name and signature(path) == (self.size, self.mtime_ns)


def signature(path: Path) -> tuple[int, int] | None:
    """Return a file's size in bytes and its time of last change in ns; of a folder the sum and the latest; or None."""
    try:
        if not path.is_dir():
            status = path.stat()
            return status.st_size, status.st_mtime_ns
        inside = [each.stat() for each in path.rglob("*") if each.is_file()]
    except OSError:
        return None
    return sum(each.st_size for each in inside), max((each.st_mtime_ns for each in inside), default=0)


def now() -> str:
    """Return the time, as stamps have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def stamp_path(path: Path) -> Path:
    """Return where the stamp of a file or folder is: `<name>.health.json` beside it."""
    return path.with_name(path.name + ENDING)


def stamped_path(stamp: Path) -> Path:
    """Return what a stamp is of, by its name."""
    return stamp.with_name(stamp.name.removesuffix(ENDING))


def valid_stamp(path: Path) -> Stamp | None:
    """Return the stamp of a file or folder if it has one, and is what was stamped."""
    return next((each for each in recorded(stamp_path(path)) if each.fits(path)), None)


def recorded(stamp: Path) -> tuple[Stamp, ...]:
    """Read a stamp and, if it was written to replace another, that one too; nothing if it is missing or malformed."""
    try:
        with stamp.open("rb") as file:
            data = json.loads(file.read(_LARGEST))
        return tuple(_read(each) for each in (data, data.get("before")) if each is not None)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ()


def write_stamp(path: Path, stamp: Stamp, draft: Path) -> None:
    """Stamp a file before it gets its name: should that never happen, the stamp still fits what stands there now.

    Args:
        path: What the stamped file will be called.
        stamp: What is known of it.
        draft: Where to write first; renamed.
    """
    before = valid_stamp(path)
    data = {"schema": _SCHEMA, "torchmend": metadata.version("torchmend"), **asdict(replace(stamp, name=path.name))}
    if before is not None:
        data["before"] = asdict(before)
    draft.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    sync_file(draft)
    draft.replace(stamp_path(path))


_TYPES = {"number": int, "size": int, "mtime_ns": int, "step": int | None, "metric": int | float | None, "codes": list}
"""Of the fields that are no texts."""


def _read(data: dict[str, Any]) -> Stamp:
    """Turn plain data into a stamp; raise ValueError, TypeError or KeyError where it is none."""
    known = {field.name: data[field.name] for field in fields(Stamp)}
    wrong = [name for name, value in known.items() if not isinstance(value, _TYPES.get(name, str))]
    if wrong:
        raise TypeError(f"not the fields of a stamp: {wrong}")
    return Stamp(**{**known, "kind": Kind(known["kind"]), "codes": tuple(known["codes"])})
