"""A checkpoint file as a source of named, measured tensors."""

from collections.abc import Callable, Hashable
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from torchmend.facts.dtypes import Kind
from torchmend.facts.errors import RepairError
from torchmend.facts.findings import Measure
from torchmend.facts.sources import Vector
from torchmend.facts.tensors import Role, Scalar, TensorRef
from torchmend.formats.checksums import wrong_checksums
from torchmend.formats.contents import Contents, Oddity, StoredTensor
from torchmend.formats.registry import read_contents
from torchmend.measure.bits import Raw, decode_any
from torchmend.measure.chunks import flat_chunks
from torchmend.measure.scan import Progress, Request, available_cores, measure
from torchmend.rules.judge import may_be_constant, needs_counting
from torchmend.rules.roles import assign_roles

ScanProgress = Callable[[int, int], None]
"""Called with (bytes looked at since the last call, bytes to look at in all)."""

LOOK_AT = 16
"""How many elements are looked at to see whether a matrix may be constant."""

VECTOR_LIMIT = 1 << 20
"""The most elements that are fetched as one vector."""


class FileSource:
    """An open checkpoint: its tensors with roles, their measures, and their elements on demand.

    Args:
        path: The file.

    Raises:
        FileError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.contents: Contents = read_contents(path)
        plain = [_ref(str(path), tensor) for tensor in self.contents.tensors]
        self.refs = assign_roles(plain, self.contents.optimizers)
        self.stored = dict(zip(self.refs, self.contents.tensors, strict=True))
        self.misfits = {
            ref: problem for ref, tensor in self.stored.items() if not tensor.absent and (problem := tensor.misfit())
        }
        self.progress: Progress | None = None
        self.count_all = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.contents.file.close()

    @property
    def scalars(self) -> tuple[Scalar, ...]:
        """Numbers and short texts among the metadata."""
        return self.contents.scalars

    @cached_property
    def measures(self) -> dict[TensorRef, Measure]:
        """Every floating-point tensor, measured once; names of the same elements share a measure."""
        by_storage: dict[Hashable, list[TensorRef]] = {}
        for ref in self.refs:
            if self.is_readable(ref) and ref.element.is_floating:
                by_storage.setdefault((ref.storage, ref.role.is_nonnegative), []).append(ref)
        requests = [self._request(key, aliases) for key, aliases in by_storage.items()]
        results = measure(requests, progress=self.progress)
        self.contents.file.check_unchanged()
        return {ref: results[key] for key, aliases in by_storage.items() for ref in aliases}

    def wrong_checksums(self) -> list[Oddity]:
        """Compare every checksum in the file with its bytes."""
        file = self.contents.file
        found = wrong_checksums(file.buffer, self.contents.records, threads=available_cores())
        file.check_unchanged()
        return found

    def _request(self, key: Hashable, aliases: list[TensorRef]) -> Request:
        first = aliases[0]
        return Request(
            key=key,
            raw=self.raw(first),
            dtype=first.element,
            full=self.count_all or any(needs_counting(ref) or self._looks_constant(ref) for ref in aliases),
            channels=any(ref.role.is_statistic for ref in aliases),
            nonnegative=first.role.is_nonnegative,
        )

    def _looks_constant(self, ref: TensorRef) -> bool:
        """Return whether the first elements of a matrix are all equal, and not zero: only counting tells more."""
        if not may_be_constant(ref):
            return False
        first = self.raw(ref).flat[:LOOK_AT]
        return bool(first[0] != 0 and (first == first[0]).all())

    def report_to(self, progress: ScanProgress | None) -> None:
        """Have a scan tell how far it is."""
        if progress is not None:
            total = self.scannable
            self.progress = lambda done: progress(done, total)

    @cached_property
    def scannable(self) -> int:
        """Bytes of distinct tensors that measuring looks at."""
        sizes = {
            ref.storage: ref.numel * ref.element.itemsize
            for ref in self.refs
            if ref.element.is_floating and self.is_readable(ref)
        }
        return sum(sizes.values())

    @cached_property
    def pinned(self) -> frozenset[TensorRef | Scalar]:
        """What cannot be patched: it stands inside the pickle in a form of no fixed width, or nowhere."""
        tensors = (ref for ref, stored in self.stored.items() if stored.extent is None)
        return frozenset((*tensors, *(scalar for scalar in self.scalars if scalar.place is None)))

    def is_readable(self, ref: TensorRef) -> bool:
        """Return whether the tensor's elements can be had."""
        return not self.stored[ref].absent and ref not in self.misfits

    def raw(self, ref: TensorRef) -> Raw:
        """Return the raw integers of a tensor that is readable, as a view of the file."""
        return self.stored[ref].raw(self.contents.file.buffer)

    def vector(self, ref: TensorRef) -> Vector:
        """Fetch a small real tensor as float64, flattened row-major."""
        if ref.numel > VECTOR_LIMIT or ref.element.kind not in (Kind.FLOAT, Kind.INTEGER):
            raise RepairError(f"{ref.path} is no short vector of real numbers: shape {ref.shape}, {ref.dtype}.")
        raw = self.raw(ref)
        native = raw.astype(raw.dtype.newbyteorder("=")).reshape(-1)
        return decode_any(native, ref.element)

    def row_sums(self, ref: TensorRef, axis: int) -> tuple[Vector, Vector]:
        """Sum the elements and their squares over all other axes; one slice along `axis` in memory at most."""
        raw = np.moveaxis(self.raw(ref), axis, 0)
        sums, squares = np.zeros(len(raw)), np.zeros(len(raw))
        for row, elements in enumerate(raw):
            for chunk in flat_chunks(elements.reshape(-1) if elements.ndim == 0 else elements):
                values = decode_any(chunk, ref.element)
                sums[row] += values.sum()
                squares[row] += values @ values
        return sums, squares


def _ref(source: str, tensor: StoredTensor) -> TensorRef:
    return TensorRef(
        source=source,
        container=tensor.container,
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype.name,
        role=Role.METADATA,
        storage=(
            tensor.extent or id(tensor.inline),
            tensor.offset,
            tensor.strides,
            tensor.shape,
            tensor.dtype.name,
        ),
    )
