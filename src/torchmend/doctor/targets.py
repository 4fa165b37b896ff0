"""Where the files of a repair go, and what must not be replaced on the way."""

from collections.abc import Iterable
from pathlib import Path

from torchmend.doctor.recording import read_undo
from torchmend.doctor.siblings import FIXED, record_of, sidecar_of
from torchmend.facts.errors import UserError

ORIGINAL = "_ORIGINAL"
"""What an undone copy's name ends with, unless its user named it otherwise."""


def fixed_name(path: Path) -> Path:
    """Return `<name>_FIXED<suffix>` beside a path."""
    return path.with_name(f"{path.stem}{FIXED}{path.suffix}")


def original_name(path: Path) -> Path:
    """Return `<name>_ORIGINAL<suffix>` beside a path, whose name may end with `_FIXED`."""
    return path.with_name(f"{path.stem.removesuffix(FIXED)}{ORIGINAL}{path.suffix}")


def check_output(output: Path, source: Path, *, force: bool) -> None:
    """Raise UserError unless a copy of the source can be written there without harm to it or to what exists."""
    if output.is_dir() and not source.is_dir():
        raise UserError(f"{output} is a folder. Name a file in it.")
    if is_same(output, source):
        raise UserError(f"{output} is the source itself. Use --in-place to replace it.")
    if source.is_dir() and output.is_file():
        raise UserError(f"{output} is a file, and the result is a folder. Name a folder.")
    if source.is_dir() and source.resolve() in output.resolve().parents:
        raise UserError(f"{output} lies inside the source. Name a folder elsewhere with -o.")
    if output.exists() and not force:
        raise UserError(f"{output} exists. Use --force to replace it.")
    if not output.parent.is_dir():
        raise UserError(f"The folder {output.parent} does not exist. Create it, or write elsewhere with -o.")


def check_spared(output: Path, precious: Iterable[Path], *, force: bool) -> None:
    """Raise UserError if an output or the record beside it would replace what is needed elsewhere.

    Args:
        output: Where the repaired file goes.
        precious: Files that are only read.
        force: Whether the record of another repaired file may be replaced.
    """
    record = record_of(output)
    for each in precious:
        for written in (output, record, sidecar_of(output)):
            if is_same(written, each):
                raise UserError(f"{written} would be replaced, and it is read as well. Write elsewhere with -o.")
    other = _repaired_by(record)
    if other is not None and other != output.name and output.with_name(other).exists() and not force:
        raise UserError(
            f"{record} belongs to {other}, whose repair could not be undone without it. "
            "Write elsewhere with -o, or use --force to replace it."
        )


def _repaired_by(record: Path) -> str | None:
    """Return the name of the file that a record belongs to, if it is one."""
    try:
        first = read_undo(record).files[0]
        path = Path(first.result.path)
        return path.parents[first.name.count("/")].name if first.name else path.name
    except (UserError, OSError):
        return None


def is_same(one: Path, other: Path) -> bool:
    """Return whether both paths lead to the same existing file."""
    return one.exists() and other.exists() and one.samefile(other)
