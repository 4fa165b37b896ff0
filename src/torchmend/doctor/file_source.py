"""A checkpoint file as a source of named, measured tensors."""

from collections.abc import Callable, Hashable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Self

from torchmend.facts.findings import Measure
from torchmend.facts.sources import Vector
from torchmend.facts.tensors import Role, Scalar, TensorRef
from torchmend.formats.ahead import ReadAhead
from torchmend.formats.checksums import checked_stretches, wrong_checksums
from torchmend.formats.contents import Allowance, Contents, Oddity, StoredTensor
from torchmend.formats.registry import read_contents
from torchmend.measure.bits import Raw
from torchmend.measure.fetch import row_sums, short_vector
from torchmend.measure.scan import Progress, Scanned, Stretch, scan
from torchmend.rules.requests import request_for
from torchmend.rules.roles import assign_roles

ScanProgress = Callable[[int, int], None]
"""Called with (bytes looked at since the last call, bytes to look at in all)."""


class FileSource:
    """An open checkpoint: its tensors with roles, their measures, and their elements on demand.

    Args:
        path: The file.
        verifies_checksums: Whether a scan compares the checksums in the file with its bytes too.

    Raises:
        FileError: It cannot be read.
    """

    def __init__(self, path: Path, *, verifies_checksums: bool = False) -> None:
        self.path = path
        self.contents: Contents = read_contents(path)
        plain = [_ref(str(path), tensor) for tensor in self.contents.tensors]
        self.refs = assign_roles(plain, self.contents.optimizers)
        self.stored = dict(zip(self.refs, self.contents.tensors, strict=True))
        self.misfits = _misfits(self.stored, self.contents.nbytes)
        self.progress: Progress | None = None
        self.count_all = False
        self.exact = False
        self.verifies_checksums = verifies_checksums

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.contents.close()

    @property
    def scalars(self) -> tuple[Scalar, ...]:
        """Numbers and short texts among the metadata."""
        return self.contents.scalars

    @cached_property
    def measures(self) -> dict[TensorRef, Measure]:
        """Every floating-point tensor, measured once; names of the same elements share a measure."""
        return {ref: self._scanned.measures[key] for key, aliases in self._measured.items() for ref in aliases}

    @property
    def wrong_checksums(self) -> list[Oddity]:
        """Checksums in the file that are not those of its bytes; none unless the scan `verifies_checksums`."""
        return wrong_checksums(self.contents, self._scanned.sums)

    @cached_property
    def _measured(self) -> dict[Hashable, list[TensorRef]]:
        """The tensors to measure, under a key for all names of the same elements."""
        by_storage: dict[Hashable, list[TensorRef]] = {}
        for ref in self.refs:
            if self.is_readable(ref) and ref.element.is_floating:
                by_storage.setdefault((ref.storage, ref.role.is_nonnegative), []).append(ref)
        return by_storage

    @property
    def _stretches(self) -> list[Stretch]:
        return checked_stretches(self.contents) if self.verifies_checksums else []

    @cached_property
    def _scanned(self) -> Scanned:
        requests = [
            request_for(key, aliases, self.raw(aliases[0]), count_all=self.count_all, exact=self.exact)
            for key, aliases in self._measured.items()
        ]
        with ReadAhead(self.contents.files) as ahead:
            found = scan(requests, self._stretches, progress=self.progress, ahead=ahead)
        self.contents.check_unchanged()
        return found

    def report_to(self, progress: ScanProgress | None) -> None:
        """Have a scan tell how far it is. Bytes that are measured and summed too count twice."""
        if progress is not None:
            total = self.scannable + sum(len(stretch.data) for stretch in self._stretches)
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
        """What cannot be patched: it stands inside the pickle in a form of no fixed width, or cannot be read."""
        tensors = (ref for ref, stored in self.stored.items() if not stored.is_patchable or not self.is_readable(ref))
        return frozenset((*tensors, *(scalar for scalar in self.scalars if scalar.place is None)))

    def is_readable(self, ref: TensorRef) -> bool:
        """Return whether the tensor's elements can be had."""
        return not self.stored[ref].absent and ref not in self.misfits

    def raw(self, ref: TensorRef) -> Raw:
        """Return the raw integers of a tensor that is readable, as a view of the file."""
        return self.stored[ref].raw(self.contents.files)

    def vector(self, ref: TensorRef) -> Vector:
        """Fetch a small real tensor as float64, flattened row-major."""
        return short_vector(self.raw(ref), ref)

    def row_sums(self, ref: TensorRef, axis: int) -> tuple[Vector, Vector]:
        """Sum the elements and their squares over all other axes; one slice along `axis` in memory at most."""
        return row_sums(self.raw(ref), ref.element, axis)


def _misfits(stored: Mapping[TensorRef, StoredTensor], nbytes: int) -> dict[TensorRef, str]:
    """Say of each tensor that cannot be looked at why: it does not fit its storage, or the file claims too much."""
    misfits: dict[TensorRef, str] = {}
    allowance, counted = Allowance(nbytes), set[Hashable]()
    for ref, tensor in stored.items():
        if tensor.absent:
            continue
        problem = tensor.misfit()
        if not problem and ref.storage not in counted:
            counted.add(ref.storage)
            problem = allowance.refusal(tensor.visited)
        if problem:
            misfits[ref] = problem
    return misfits


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
