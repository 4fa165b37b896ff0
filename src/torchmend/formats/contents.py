"""What every format is read into: stored tensors with their places in the file, and scalars."""

from dataclasses import dataclass, field
from math import prod

import numpy as np

from torchmend.facts.codes import Code
from torchmend.facts.dtypes import DType, Kind
from torchmend.facts.tensors import Scalar
from torchmend.formats.mapped import Buffer, MappedFile
from torchmend.measure.bits import Raw, raw_dtype

OVERLAP_LIMIT = 64
"""How often a view may visit each element of its storage before its shape is taken to be nonsense."""

MOST_ELEMENTS = 1 << 56
"""More than any memory holds, and few enough for numpy to address."""

MOST_DIMENSIONS = 63
"""As many as numpy supports, with one to spare for the parts of complex elements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """The bytes of a storage: where they start in the file and how many there are."""

    start: int
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor as a file describes it.

    Args:
        container: Where its state dict stands; empty for the root.
        name: Its name inside the container.
        dtype: The element type.
        shape: Sizes; `()` for a scalar.
        strides: Strides in elements.
        offset: The first element's place in the storage, in elements.
        extent: The storage's bytes in the file; None when they are in `inline` or cannot be had.
        inline: Bytes that stand inside the pickle itself: readable, not patchable.
        absent: Why there are no bytes to look at (empty when there are).
        little_endian: The byte order of the elements.
    """

    container: str
    name: str
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    extent: Extent | None = None
    inline: bytes | None = None
    absent: str = ""
    little_endian: bool = True

    @property
    def numel(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    def misfit(self) -> str:
        """Say why the shape, strides and offset do not fit the storage; empty when they do."""
        if self.numel == 0 or self.dtype.kind is Kind.PACKED:
            return ""
        if len(self.shape) > MOST_DIMENSIONS:
            return f"it claims {len(self.shape)} dimensions, of at most {MOST_DIMENSIONS}"
        if self.numel > MOST_ELEMENTS:
            return f"it claims more than {MOST_ELEMENTS:,} elements"
        have = len(self.inline) if self.inline is not None else self.extent.nbytes if self.extent else 0
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        need = (last + 1) * self.dtype.itemsize
        if need > have:
            return f"it needs {need:,} bytes of a storage that has {have:,}"
        distinct = prod(n for n, s in zip(self.shape, self.strides, strict=True) if s)
        if distinct > OVERLAP_LIMIT * (last + 1 - self.offset):
            return f"its {distinct:,} overlapping elements lie in {last + 1 - self.offset:,} places"
        return ""

    def raw(self, buffer: Buffer) -> Raw:
        """Return the elements as raw integers: a view of the buffer, in the tensor's shape.

        Complex elements get a last axis of length two; a tensor without elements becomes flat. Only for tensors
        without a `misfit` or `absent`.
        """
        kind = raw_dtype(self.dtype, little_endian=self.little_endian)
        if self.numel == 0:
            return np.empty((0, 2) if self.dtype.kind is Kind.COMPLEX else 0, dtype=kind)
        strides = tuple(s * self.dtype.itemsize if n > 1 else 0 for n, s in zip(self.shape, self.strides, strict=True))
        shape = tuple(1 if s == 0 else n for n, s in zip(self.shape, strides, strict=True))
        expanded = self.shape
        if self.dtype.kind is Kind.COMPLEX:
            shape, strides, expanded = (*shape, 2), (*strides, kind.itemsize), (*expanded, 2)
        source: Buffer = buffer if self.inline is None else self.inline
        start = self.extent.start if self.extent and self.inline is None else 0
        offset = start + self.offset * self.dtype.itemsize
        view: Raw = np.ndarray(shape, dtype=kind, buffer=source, offset=offset, strides=strides)
        return view if shape == expanded else np.broadcast_to(view, expanded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A stretch of the file with a checksum of its own.

    Args:
        name: What the file calls it.
        extent: The bytes that the checksum covers.
        crc: The CRC-32 as stored.
        crc_at: Every place in the file where that CRC-32 stands, as four bytes, little-endian.
    """

    name: str
    extent: Extent
    crc: int
    crc_at: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Oddity:
    """Something about the file's own structure that no writer makes, or that is unusual.

    Args:
        code: The TM9xx code under which a report lists it.
        detail: What and where, in a few words.
    """

    code: Code
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A checkpoint file, read but not looked into: what it holds and where.

    Args:
        file: The open file.
        format: What kind of file it is, in words.
        tensors: In the file's order.
        scalars: Numbers and short texts.
        optimizers: For each container that is an optimizer's state, its parameters' keys in the order of
            `param_groups`, and their names where the file tells them.
        records: Stretches with checksums.
        oddities: What is wrong or unusual about the structure.
        calls: Functions that a pickle inside wanted to call, each with the arguments of its first call, shortened.
    """

    file: MappedFile
    format: str
    tensors: tuple[StoredTensor, ...]
    scalars: tuple[Scalar, ...] = ()
    optimizers: dict[str, tuple[tuple[str, str | None], ...]] = field(default_factory=dict)
    records: tuple[Record, ...] = ()
    oddities: tuple[Oddity, ...] = ()
    calls: dict[str, str] = field(default_factory=dict)
