"""The record of a repair beside the repaired file: what was done and why, and what it takes to undo it."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torchmend.doctor.splices import Splice, old_ranges
from torchmend.facts.errors import UserError
from torchmend.facts.paths import is_inside
from torchmend.formats.mapped import Buffer
from torchmend.formats.names import SIDECAR_ENDING
from torchmend.reports.machine import Json, envelope

_PIECE = 1 << 20
_RANGE = re.compile(r"\[\n\s+(\d+),\n\s+(\d+)(?:,\n\s+(\d+))?\n\s+\]")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What a file was when the record was written.

    Args:
        path: As it was named then.
        nbytes: Its size.
        sha256: Of its bytes, in hexadecimal digits.
    """

    path: str
    nbytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path, sha256: str, *, known_as: Path | None = None) -> Self:
        """Describe a file whose hash is known, and that may get another name."""
        return cls(path=str(known_as or path), nbytes=path.stat().st_size, sha256=sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileUndo:
    """How to turn one repaired file into its original again.

    Args:
        name: Its path inside the checkpoint's folder, with slashes; empty for a checkpoint that is one file.
        source: The original.
        result: The repaired file.
        splices: Every stretch that differs, sorted, without overlaps.
    """

    name: str
    source: Stamp
    result: Stamp
    splices: tuple[Splice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Undo:
    """How to turn a repaired checkpoint into its original again.

    Args:
        sidecar: The name of the file, beside the record, that holds the old bytes of all splices, one after another.
        sidecar_sha256: Of that file.
        files: The files that changed, in the order in which their old bytes stand in the sidecar.
    """

    sidecar: str
    sidecar_sha256: str
    files: tuple[FileUndo, ...]

    @property
    def restored(self) -> int:
        """How many bytes of the original the sidecar holds."""
        return sum(splice.old for file in self.files for splice in file.splices)


def save_old_bytes(changes: Iterable[tuple[Buffer, Sequence[Splice]]], sidecar: Path) -> str:
    """Stream the bytes that splices replace into the sidecar, and return its SHA-256.

    Args:
        changes: The original bytes of each file, and where its repaired copy differs.
        sidecar: An existing file to write into.
    """
    state = hashlib.sha256()
    with sidecar.open("wb") as file:
        for source, splices in changes:
            for offset, length in old_ranges(splices):
                for start in range(offset, offset + length, _PIECE):
                    piece = source[start : min(start + _PIECE, offset + length)]
                    state.update(piece)
                    file.write(piece)
    return state.hexdigest()


def write_record(path: Path, result: Json, undo: Undo) -> None:
    """Write the record.

    Args:
        path: An existing file to write into.
        result: Diagnosis and repair, as plain data.
        undo: What undoes the repair.
    """
    text = json.dumps(envelope([{**result, "undo": _data(undo)}]), indent=1)
    path.write_text(_RANGE.sub(_on_one_line, text) + "\n", encoding="utf-8")


def _on_one_line(found: re.Match[str]) -> str:
    return f"[{', '.join(number for number in found.groups() if number)}]"


def _data(undo: Undo) -> Json:
    return {
        "sidecar": undo.sidecar,
        "sidecar_sha256": undo.sidecar_sha256,
        "files": [
            {
                "name": file.name,
                "source": _stamp_data(file.source),
                "result": _stamp_data(file.result),
                "ranges": [_splice_data(each) for each in file.splices],
            }
            for file in undo.files
        ],
    }


def _splice_data(splice: Splice) -> list[int]:
    same = splice.length == splice.old
    return [splice.offset, splice.length] if same else [splice.offset, splice.length, splice.old]


def _stamp_data(stamp: Stamp) -> Json:
    return {"path": stamp.path, "bytes": stamp.nbytes, "sha256": stamp.sha256}


def read_undo(record: Path) -> Undo:
    """Read what undoes a repair from its record.

    Raises:
        UserError: There is no record, it is malformed, or an older version wrote it without this.
    """
    try:
        report = json.loads(record.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"There is no record {record}, so there is nothing to undo with. "
            "Name a file that torchmend fix wrote, with its .repair.json and .repair.bin beside it."
        ) from None
    except (ValueError, RecursionError) as error:
        raise _malformed(record, str(error)) from None
    try:
        first = report["results"][0]
        if "undo" not in first:
            raise UserError(f"{record} does not hold what it takes to undo: an older version of torchmend wrote it.")
        return _undo(first["undo"])
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise _malformed(record, f"{type(error).__name__}: {error}") from None


def _malformed(record: Path, why: str) -> UserError:
    return UserError(f"{record} is no record of a repair, or it is damaged ({why}). Restore it from a backup.")


def _undo(data: Any) -> Undo:
    sidecar = str(data["sidecar"])
    if sidecar != Path(sidecar).name or "\\" in sidecar or not sidecar.endswith(SIDECAR_ENDING):
        raise ValueError(f"a sidecar named {sidecar!r}; expected NAME{SIDECAR_ENDING}, without a folder")
    files = tuple(_file_undo(each) for each in data["files"])
    if not files or len({file.name for file in files}) < len(files):
        raise ValueError("no files, or one of them twice")
    return Undo(sidecar=sidecar, sidecar_sha256=_sha256(data["sidecar_sha256"]), files=files)


def _file_undo(data: Any) -> FileUndo:
    name, source, result = data["name"], _stamp(data["source"]), _stamp(data["result"])
    if not isinstance(name, str) or not (name == "" or is_inside(name)):
        raise ValueError(f"a file named {name!r}; expected a path inside the checkpoint's folder")
    splices = tuple(_splice(*each) for each in data["ranges"])
    end = 0
    for splice in splices:
        if splice.offset < end or splice.end > result.nbytes:
            raise ValueError(
                f"a range of {splice.length} bytes at {splice.offset} after one that ends at {end}, in a file of "
                f"{result.nbytes}; expected sorted ranges inside the file"
            )
        end = splice.end
    grown = sum(splice.length - splice.old for splice in splices)
    if result.nbytes - source.nbytes != grown:
        raise ValueError(f"a source of {source.nbytes} bytes and a result of {result.nbytes}, which differ by {grown}")
    return FileUndo(name=name, source=source, result=result, splices=splices)


def _splice(offset: Any, length: Any, old: Any = None) -> Splice:
    return Splice(offset=_count(offset), length=_count(length), old=_count(length if old is None else old))


def _stamp(data: Any) -> Stamp:
    return Stamp(path=str(data["path"]), nbytes=_count(data["bytes"]), sha256=_sha256(data["sha256"]))


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r}; expected a number of bytes")
    return value


def _sha256(value: Any) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(f"{value!r}; expected a SHA-256 of 64 hexadecimal digits")
    return value
