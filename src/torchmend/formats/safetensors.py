"""Safetensors files: a JSON header, then the tensors, one after the other, without gaps."""

import json
from typing import Any

from torchmend.facts.codes import Code
from torchmend.facts.dtypes import DTYPES
from torchmend.facts.errors import FileError
from torchmend.facts.paths import LONGEST_COMPONENT
from torchmend.facts.tensors import Scalar
from torchmend.formats.contents import Contents, Extent, StoredTensor
from torchmend.formats.layout import duplicates, overlaps, pieces_of, unreferenced
from torchmend.formats.mapped import MappedFile

LARGEST_HEADER = 100_000_000
"""The format's own limit, in bytes."""

MOST_SIZES = 1000
"""Dimensions from which on even the number of elements is not worth working out."""

DTYPE_NAMES = {
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "BF16": "bfloat16",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F4": "float4_e2m1fn_x2",
}
"""The format's names of element types, and ours."""


def recognises(file: MappedFile) -> bool:
    """Return whether the file starts like a safetensors header."""
    return file.size > 9 and file.read(8, 1) == b"{" and int.from_bytes(file.read(0, 8), "little") <= LARGEST_HEADER


def read(file: MappedFile, *, cut: bool = False) -> Contents:
    """Read the header.

    Args:
        file: The file.
        cut: Whether the file may end before its tensors do; those that it does not hold as a whole are absent.

    Raises:
        FileError: The header is cut off or malformed, or the tensors do not fit the file.
    """
    length = int.from_bytes(file.read(0, 8), "little")
    if 8 + length > file.size:
        raise _truncated(f"a header of {length:,} bytes", file)
    try:
        names: list[str] = []
        header: Any = json.loads(
            str(file.read(8, length), "utf-8"), object_pairs_hook=lambda pairs: _object(pairs, names)
        )
    except (ValueError, RecursionError) as error:
        raise _malformed(f"its header is no JSON ({error})") from None
    if not isinstance(header, dict):
        raise _malformed("its header is no JSON object")
    metadata = header.pop("__metadata__", None) or {}
    tensors = tuple(_tensor(name, entry, 8 + length, file, cut=cut) for name, entry in header.items())
    scalars = metadata.items() if isinstance(metadata, dict) else ()
    pieces = pieces_of(tensors)
    gaps = max(file.size - 8 - length - sum(piece.end - piece.start for piece in pieces), 0)
    return Contents(
        files=(file,),
        format="safetensors",
        tensors=tuple(sorted(tensors, key=lambda t: t.extent.start if t.extent else 0)),
        scalars=tuple(Scalar(path=(key,), value=str(value)) for key, value in scalars),
        oddities=(*duplicates(names), *overlaps(pieces), *unreferenced((), (), gaps)),
    )


def _object(pairs: list[tuple[str, Any]], names: list[str]) -> dict[str, Any]:
    """Make a JSON object, and note the names that stand in it; those of the outermost object come last."""
    names[:] = [name for name, _ in pairs]
    return dict(pairs)


def _malformed(what: str) -> FileError:
    return FileError(Code.UNREADABLE, f"The safetensors file is malformed: {what}.", "Use an earlier checkpoint.")


def _truncated(what: str, file: MappedFile) -> FileError:
    return FileError(
        Code.TRUNCATED,
        f"The file is cut off: it announces {what} and has {file.size:,} bytes in all.",
        "The save or the download was interrupted; save or fetch it again, or use an earlier checkpoint. "
        "`torchmend salvage` saves what is whole.",
    )


def _tensor(name: str, entry: Any, base: int, file: MappedFile, *, cut: bool) -> StoredTensor:
    try:
        kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = isinstance(kind, str) and all(isinstance(n, int) and 0 <= n < 1 << 63 for n in (*shape, start, end))
    except (TypeError, KeyError, ValueError):
        whole = False
    if len(name) > LONGEST_COMPONENT:
        raise _malformed(f"a tensor's name of {len(name):,} characters")
    if whole and len(shape) > MOST_SIZES:
        raise _malformed(f"a tensor of {len(shape):,} dimensions")
    if not whole or start > end:
        raise _malformed(f"the entry of {name} lacks a dtype, a shape or data_offsets")
    beyond = base + end > file.size
    if beyond and not cut:
        raise _truncated(f"{name} up to byte {base + end:,}", file)
    dtype = DTYPES.get(DTYPE_NAMES.get(kind, ""))
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(shape[axis + 1], 1)
    return StoredTensor(
        container="",
        name=name,
        dtype=dtype or DTYPES["uint8"],
        shape=tuple(shape),
        strides=tuple(strides),
        extent=None if beyond else Extent(start=base + start, nbytes=end - start),
        absent=f"its element type {kind} is not known" if dtype is None else _missing(base + start, base + end, file),
    )


def _missing(start: int, end: int, file: MappedFile) -> str:
    """Say how much of a tensor is not in the file; empty where it is whole."""
    have = max(file.size - start, 0)
    return f"the file holds {have:,} of its {end - start:,} bytes" if end > file.size else ""
