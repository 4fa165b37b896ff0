"""Other checkpoints in the same folder: healthy ones that could help, and the newest healthy one."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torchmend.doctor.diagnosing import diagnose_file
from torchmend.doctor.discovery import checkpoint_paths
from torchmend.facts.codes import Code
from torchmend.facts.errors import SourceChangedError, UserError
from torchmend.facts.findings import Diagnosis
from torchmend.facts.tensors import TensorRef
from torchmend.formats.names import SIDECAR_ENDING, is_checkpoint_name
from torchmend.formats.registry import claims

FIXED = "_FIXED"
"""What a repaired copy's name ends with, unless its user named it otherwise."""

MOST_LOOKED_AT = 8
"""How many neighbours are diagnosed in search of healthy ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """The newest healthy checkpoint of a folder.

    Args:
        chosen: Its path, or None when there is none.
        passed_over: Newer files, with the reason for each.
    """

    chosen: Path | None
    passed_over: tuple[tuple[Path, str], ...]


def newest_first(paths: Iterable[Path]) -> list[Path]:
    """Sort files by time of last change, newest first, then by name."""
    return sorted(paths, key=lambda path: (-path.stat().st_mtime_ns, path.name))


def pick_newest_healthy(folder: Path) -> Pick:
    """Find the newest healthy checkpoint in a folder and the folders below it.

    Raises:
        UserError: It is no folder, or there are no checkpoint files in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Name the folder that holds the run's checkpoints.")
    files = newest_first(checkpoint_paths(folder))
    passed_over: list[tuple[Path, str]] = []
    for path in files:
        reason = _why_not(path)
        if not reason:
            return Pick(chosen=path, passed_over=tuple(passed_over))
        passed_over.append((path, reason))
    return Pick(chosen=None, passed_over=tuple(passed_over))


def _why_not(path: Path) -> str:
    try:
        diagnosis = diagnose_file(path)
    except SourceChangedError:
        return "it is being written to"
    if diagnosis.healthy and is_repaired(path) and Code.STATISTIC_NEVER_MOVED in {f.code for f in diagnosis.findings}:
        return f"{Code.STATISTIC_NEVER_MOVED.value}: its statistics are those of a reset; recalibrate it first"
    if diagnosis.healthy:
        return "" if diagnosis.refs else "it holds no tensors"
    first = diagnosis.findings[0]
    more = f" and {len(diagnosis.findings) - 1} more" if len(diagnosis.findings) > 1 else ""
    where = f"{first.ref.path}: " if first.ref else ""
    return f"{first.code.value} {where}{first.message}{more}"


def record_of(output: Path) -> Path:
    """Return where the record of a repaired file is kept: `<name>.repair.json` beside it."""
    return output.with_name(f"{output.stem}.repair.json")


def sidecar_of(output: Path) -> Path:
    """Return where the bytes that a repair replaced are kept: `<name>.repair.bin` beside the repaired file."""
    return output.with_name(f"{output.stem}{SIDECAR_ENDING}")


def is_repaired(path: Path) -> bool:
    """Return whether a file is a repaired copy: some of its values may be predictions, so it is no donor."""
    return path.stem.endswith(FIXED) or any(record_of(each).exists() for each in (path, path.parent) if each.name)


def healthy_siblings(path: Path, needed: Iterable[TensorRef]) -> tuple[Path, ...]:
    """Find healthy checkpoints beside a file or folder that hold sound tensors for all those needed, newest first.

    Args:
        path: The damaged file, or the folder of a checkpoint of several files.
        needed: Its tensors that are wanted.
    """
    wanted = {(ref.name, ref.shape) for ref in needed}
    neighbours = [
        found
        for each in path.parent.iterdir()
        if each.name != path.name and (found := _checkpoint_at(each, folders=path.is_dir())) and not is_repaired(found)
    ]
    return tuple(each for each in newest_first(neighbours)[:MOST_LOOKED_AT] if _can_give(each, wanted))


def _checkpoint_at(path: Path, *, folders: bool) -> Path | None:
    """Return what to open of a neighbour: the file itself, or where folders are looked for, what the folder holds."""
    if path.is_file():
        return path if is_checkpoint_name(path.name) else None
    found = claims(path) if folders and path.is_dir() and not path.name.startswith(".") else []
    return found[0][0].path if found else None


def _can_give(path: Path, wanted: set[tuple[str, tuple[int, ...]]]) -> bool:
    try:
        diagnosis: Diagnosis = diagnose_file(path)
    except SourceChangedError:
        return False
    return diagnosis.healthy and wanted <= {(ref.name, ref.shape) for ref in diagnosis.refs}
