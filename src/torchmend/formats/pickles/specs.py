"""Tensors as pickles describe them."""

from dataclasses import dataclass
from typing import Any

from torchmend.facts.dtypes import DType
from torchmend.formats.pickles.records import Call


class MalformedError(ValueError):
    """The arguments of a call are not what the function takes."""


class NotNumbersError(ValueError):
    """An array holds texts, dates or objects."""


MOST_SIZES = 64
"""Dimensions of a tensor; torch allows as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSpec:
    """A storage as a pickle names it.

    Args:
        key: Its name in the file.
        nbytes: Its size.
        itemsize: Bytes of an element, as the storage's type has it; 1 for an untyped one.
        view: For a part of a storage, where it begins in the whole and how long it is, in bytes.
    """

    key: str
    nbytes: int
    itemsize: int = 1
    view: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A tensor as a pickle describes it.

    Args:
        suffix: What to append to the tensor's name (`.values` for a part of a sparse tensor).
        dtype: The element type.
        shape: Sizes.
        strides: In elements.
        offset: In elements, from the storage's start.
        storage: Where the bytes are, if they are outside the pickle.
        inline: The bytes, if they are inside it.
        absent: Why there are none, otherwise.
        little_endian: The byte order of inline bytes.
        part_of: What kind of composed tensor it is a part of (`sparse`, `nested`), if it is one.
    """

    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    suffix: str = ""
    storage: StorageSpec | None = None
    inline: bytes | None = None
    absent: str = ""
    little_endian: bool = True
    part_of: str = ""


def sizes(value: Any) -> tuple[int, ...]:
    """Read the sizes or strides of a tensor; raise MalformedError if they are none."""
    if isinstance(value, Call) and value.named("torch.Size"):
        value = value.args[0] if value.args else ()
    if isinstance(value, tuple | list) and len(value) > MOST_SIZES:
        raise MalformedError(f"{len(value):,} dimensions")
    if not isinstance(value, tuple | list) or not all(isinstance(n, int) and 0 <= n < 1 << 63 for n in value):
        raise MalformedError("sizes that are not whole numbers from 0")
    return tuple(int(n) for n in value)
