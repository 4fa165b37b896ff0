"""The record of a repair beside the repaired file: what was done and why, and what it takes to undo it."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchmend.doctor.diagnosing import SIDECAR_ENDING
from torchmend.facts.errors import UserError
from torchmend.formats.mapped import Buffer
from torchmend.reports.machine import Json, envelope

_PIECE = 1 << 20
_PAIR = re.compile(r"\[\n\s+(\d+),\n\s+(\d+)\n\s+\]")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Undo:
    """How to turn a repaired file into its original again.

    Args:
        sidecar: The name of the file, beside the record, that holds the old bytes of all ranges, one after another.
        sidecar_sha256: Of that file.
        ranges: Offset and length of every stretch that changed, sorted, without overlaps.
        source: The original.
        result: The repaired file, as long as the original.
    """

    sidecar: str
    sidecar_sha256: str
    ranges: tuple[tuple[int, int], ...]
    source: Stamp
    result: Stamp


def save_old_bytes(ranges: Iterable[tuple[int, int]], source: Buffer, sidecar: Path) -> str:
    """Stream the bytes of all ranges (offset, length) into the sidecar, and return its SHA-256."""
    state = hashlib.sha256()
    with sidecar.open("wb") as file:
        for offset, length in ranges:
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
    path.write_text(_PAIR.sub(r"[\1, \2]", text) + "\n", encoding="utf-8")


def _data(undo: Undo) -> Json:
    return {
        "sidecar": undo.sidecar,
        "sidecar_sha256": undo.sidecar_sha256,
        "source": _stamp_data(undo.source),
        "result": _stamp_data(undo.result),
        "ranges": [list(each) for each in undo.ranges],
    }


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
    sidecar, source, result = str(data["sidecar"]), _stamp(data["source"]), _stamp(data["result"])
    if sidecar != Path(sidecar).name or "\\" in sidecar or not sidecar.endswith(SIDECAR_ENDING):
        raise ValueError(f"a sidecar named {sidecar!r}; expected NAME{SIDECAR_ENDING}, without a folder")
    if source.nbytes != result.nbytes:
        raise ValueError(f"a source of {source.nbytes} bytes and a result of {result.nbytes}; expected the same")
    ranges = tuple((_count(offset), _count(length)) for offset, length in data["ranges"])
    end = 0
    for offset, length in ranges:
        if offset < end or offset + length > source.nbytes:
            raise ValueError(
                f"a range of {length} bytes at {offset} after one that ends at {end}, in a file of {source.nbytes}; "
                "expected sorted ranges inside the file"
            )
        end = offset + length
    return Undo(
        sidecar=sidecar, sidecar_sha256=_sha256(data["sidecar_sha256"]), ranges=ranges, source=source, result=result
    )


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
