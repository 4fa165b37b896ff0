"""Write safetensors: a JSON header, then the tensors, one after the other, without gaps."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO

from torchmend.doctor.writing.parcels import Advance, Parcel
from torchmend.facts.dtypes import DType
from torchmend.facts.errors import UserError
from torchmend.formats.safetensors import DTYPE_NAMES, LARGEST_HEADER

_TAGS = {name: tag for tag, name in DTYPE_NAMES.items()}
_METADATA = {"format": "pt"}
"""What transformers asks for before it loads a file."""


def write(parcels: Sequence[Parcel], out: BinaryIO, advance: Advance) -> None:
    """Write one safetensors file, widest elements first, so that every tensor is aligned.

    Args:
        parcels: What to write; their names have passed `check_names`, their types `lacks`.
        out: An empty file.
        advance: Told of every piece that was written.

    Raises:
        UserError: There are so many tensors that the header would be longer than the format allows.
        OSError: The disk is full.
    """
    ordered = sorted(parcels, key=lambda parcel: -parcel.tensor.dtype.itemsize)
    header = _header(ordered)
    if len(header) > LARGEST_HEADER:
        raise UserError(
            f"The names of {len(parcels):,} tensors make a header of {len(header):,} bytes, and safetensors allows "
            f"{LARGEST_HEADER:,}. Write a sharded checkpoint or a torch file instead (--to)."
        )
    out.write(len(header).to_bytes(8, "little") + header)
    for parcel in ordered:
        for chunk in parcel.chunks():
            out.write(chunk)
            advance(chunk.nbytes)


def lacks(dtype: DType) -> bool:
    """Return whether the format has no name for an element type."""
    return dtype.name not in _TAGS


def check_names(parcels: Iterable[Parcel]) -> None:
    """Raise UserError if two tensors would get the same name, or one a name that the format cannot hold."""
    paths = [parcel.path for parcel in parcels]
    twice = next((path for path, times in Counter(paths).items() if times > 1), None)
    if twice is not None:
        raise UserError(
            f"Two tensors would be called {twice}, since safetensors has no containers. "
            "Convert one container at a time with --container, or into a torch file."
        )
    for path in paths:
        if path == "__metadata__" or not _is_text(path):
            raise UserError(f"Safetensors cannot hold a tensor called {path!r}. Convert into a torch file.")


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates
        return False
    return True


def _header(parcels: Iterable[Parcel]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": _METADATA}
    at = 0
    for parcel in parcels:
        entries[parcel.path] = {
            "dtype": _TAGS[parcel.tensor.dtype.name],
            "shape": parcel.tensor.shape,
            "data_offsets": (at, at + parcel.nbytes),
        }
        at += parcel.nbytes
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    return header + b" " * (-len(header) % 8)
