"""What every format is read into: stored tensors with their places in the file, and scalars."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np

from torchmend.facts.codes import Code
from torchmend.facts.dtypes import DType, Kind
from torchmend.facts.tensors import Scalar
from torchmend.formats.mapped import Buffer, MappedFile
from torchmend.measure.bits import Raw, raw_dtype

Inline = bytes | memoryview
"""A storage's bytes in memory, or in a temporary file that is mapped."""

OVERLAP_LIMIT = 64
"""How often a view may visit each element of its storage before its shape is taken to be nonsense."""

MOST_ELEMENTS = 1 << 56
"""More than any memory holds, and few enough for numpy to address."""

LEAST_WORK, WORK_TIMES = 128 << 20, 64
"""Bytes of tensors that any file may claim, and times its size that a larger one may: views share storage."""

MOST_DIMENSIONS = 63
"""As many as numpy supports, with one to spare for the parts of complex elements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """The bytes of a storage.

    Args:
        start: Where they start in the file.
        nbytes: How many there are.
        file: Which of the checkpoint's files it is, as an index into `Contents.files`.
    """

    start: int
    nbytes: int
    file: int = 0


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
        extent: The storage's bytes in a file; None when there are none that could be patched.
        inline: The storage's bytes where no file has them as they are: inside a pickle, or inflated.
        packed: The name of the compressed record, at `extent`, that `inline` was inflated from. A repair stores
            that record anew.
        absent: Why there are no bytes to look at (empty when there are).
        little_endian: The byte order of the elements.
        part_of: What kind of composed tensor it is a part of (`sparse`, `nested`), if it is one.
    """

    container: str
    name: str
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    extent: Extent | None = None
    inline: Inline | None = None
    packed: str = ""
    absent: str = ""
    little_endian: bool = True
    part_of: str = ""

    @property
    def numel(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    @property
    def is_patchable(self) -> bool:
        """Whether a repair can write to its elements."""
        return self.extent is not None

    @property
    def visited(self) -> int:
        """The bytes of the elements, each counted as often as strides lead to it; not where a stride is zero."""
        return prod(n for n, s in zip(self.shape, self.strides, strict=True) if s) * self.dtype.itemsize

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

    def raw(self, files: Sequence[MappedFile]) -> Raw:
        """Return the elements as raw integers: a view of the mapped bytes, in the tensor's shape.

        Complex elements get a last axis of length two; a tensor without elements becomes flat. Only for tensors
        without a `misfit` or `absent`.

        Args:
            files: Those of the contents that the tensor belongs to.
        """
        kind = raw_dtype(self.dtype, little_endian=self.little_endian)
        if self.numel == 0:
            return np.empty((0, 2) if self.dtype.kind is Kind.COMPLEX else 0, dtype=kind)
        strides = tuple(s * self.dtype.itemsize if n > 1 else 0 for n, s in zip(self.shape, self.strides, strict=True))
        shape = tuple(1 if s == 0 else n for n, s in zip(self.shape, strides, strict=True))
        expanded = self.shape
        if self.dtype.kind is Kind.COMPLEX:
            shape, strides, expanded = (*shape, 2), (*strides, kind.itemsize), (*expanded, 2)
        source, start = self._bytes(files)
        offset = start + self.offset * self.dtype.itemsize
        view: Raw = np.ndarray(shape, dtype=kind, buffer=source, offset=offset, strides=strides)
        return view if shape == expanded else np.broadcast_to(view, expanded)

    def _bytes(self, files: Sequence[MappedFile]) -> tuple[Buffer | Inline, int]:
        """Return where the storage's bytes are, and at which position they start there."""
        if self.inline is not None:
            return self.inline, 0
        assert self.extent is not None, f"{self.name} has no bytes, and nobody should have asked for them"
        return files[self.extent.file].buffer, self.extent.start


class Allowance:
    """How many bytes of tensors may be looked at, or written, before a file claims too much for its size.

    Args:
        nbytes: The size of the checkpoint's files.
    """

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        self._left = max(LEAST_WORK, WORK_TIMES * nbytes)

    def refusal(self, amount: int) -> str:
        """Take a tensor's bytes from the allowance; say why it may not be taken, or nothing."""
        self._left -= amount
        if self._left >= 0:
            return ""
        return f"with the tensors before it, it claims many times the {self._nbytes:,} bytes of the file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A stretch of the file with a checksum of its own.

    Args:
        name: What the file calls it.
        extent: The bytes that the checksum covers.
        crc: The CRC-32 as stored.
        crc_at: Every place in the same file where that CRC-32 stands, as four bytes, little-endian.
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
class Import:
    """A name that a pickle wanted to import, and perhaps to call. It was not.

    Args:
        module: The module.
        name: What of it; a dotted name walks over attributes.
        call: Its first call as Python would write it, shortened; empty when it was only imported.
        at: Where in the pickle the first opcode stands that asks for it.
        place: Where that opcode stands in the file; None when the pickle is compressed.
        pickle: What the file calls the pickle, where it holds several.
    """

    module: str
    name: str
    call: str = ""
    at: int = 0
    place: int | None = None
    pickle: str = ""

    @property
    def dotted(self) -> str:
        """Module and name joined by a dot."""
        return f"{self.module}.{self.name}"


def first_imports(imports: Iterable[Import]) -> tuple[Import, ...]:
    """Keep the first import of each name."""
    kept: dict[tuple[str, str], Import] = {}
    for wanted in imports:
        kept.setdefault((wanted.module, wanted.name), wanted)
    return tuple(kept.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A checkpoint, read but not looked into: what it holds and where.

    Args:
        files: The open files; extents, records and scalars refer to them by index.
        format: What kind of checkpoint it is, in words.
        folder: For a checkpoint of several files, the folder that holds them and that a repair copies; else None.
        tensors: In the file's order.
        scalars: Numbers and short texts.
        optimizers: For each container that is an optimizer's state, its parameters' keys in the order of
            `param_groups`, and their names where the file tells them.
        records: Stretches with checksums.
        oddities: What is wrong or unusual about the structure.
        imports: Names that pickles inside wanted to import, once each.
    """

    files: tuple[MappedFile, ...]
    format: str
    tensors: tuple[StoredTensor, ...]
    folder: Path | None = None
    scalars: tuple[Scalar, ...] = ()
    optimizers: dict[str, tuple[tuple[str, str | None], ...]] = field(default_factory=dict)
    records: tuple[Record, ...] = ()
    oddities: tuple[Oddity, ...] = ()
    imports: tuple[Import, ...] = ()

    @property
    def nbytes(self) -> int:
        """The size of all files together."""
        return sum(file.size for file in self.files)

    def check_unchanged(self) -> None:
        """Raise SourceChangedError if a file is no longer the one that was opened."""
        for file in self.files:
            file.check_unchanged()

    def close(self) -> None:
        """Unmap the files."""
        for file in self.files:
            file.close()
