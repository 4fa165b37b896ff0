"""Apply a repair plan to a copy of a file: only the damaged elements' bytes and their checksums change."""

import zlib
from collections.abc import Hashable, Iterator, Mapping
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from torchmend.doctor.file_source import FileSource
from torchmend.facts.dtypes import Kind
from torchmend.facts.plans import CopyDamaged, Edit, FillDamaged, RepairPlan, Values
from torchmend.facts.tensors import TensorRef
from torchmend.formats.contents import Record, StoredTensor
from torchmend.measure.bits import Raw, component, damaged, encode
from torchmend.measure.chunks import flat_chunks

_Patch = tuple[NDArray[np.int64], Raw]
"""Flat row-major indices of elements, and their new raw integers in native order ([n], or [n, 2] for complex)."""


def apply_plan(plan: RepairPlan, source: FileSource, target: BinaryIO, donors: Mapping[str, FileSource]) -> None:
    """Write a plan's edits into a copy of the source file, and mend its checksums.

    Args:
        plan: Made for this source.
        source: The file as it is; only read.
        target: The copy, open for reading and writing.
        donors: The sources that the plan's copies name.
    """
    written: set[Hashable] = set()
    touched: set[int] = set()
    for edit in plan.edits:
        if edit.ref.storage in written:  # another name of the same elements
            continue
        written.add(edit.ref.storage)
        stored = source.stored[edit.ref]
        for index, raw in _patches(edit, source, donors):
            _write(target, stored, index, raw)
        assert stored.extent is not None
        touched.add(stored.extent.start)
    for record in source.contents.records:
        if record.extent.start in touched:
            _mend_checksum(record, source, target)


def _patches(edit: Edit, source: FileSource, donors: Mapping[str, FileSource]) -> Iterator[_Patch]:
    """Yield what to write, a bounded piece at a time."""
    change, ref = edit.change, edit.ref
    match change:
        case Values():
            yield np.array(change.index, dtype=np.int64), encode(np.array(change.values), ref.element)
        case FillDamaged():
            fill = encode(np.array([change.value]), component(ref.element))[0]
            parts = (2,) if ref.element.kind is Kind.COMPLEX else ()
            for where in (ref, *change.also):
                for index in _damaged_indices(source, where):
                    yield index, np.full((len(index), *parts), fill)
        case CopyDamaged():
            giver = donors[change.source].raw(change.ref)
            for index in _damaged_indices(source, ref):
                elements = giver[np.unravel_index(index, ref.shape)]
                yield index, elements.astype(elements.dtype.newbyteorder("="))


def _damaged_indices(source: FileSource, ref: TensorRef) -> Iterator[NDArray[np.int64]]:
    start = 0
    is_complex = ref.element.kind is Kind.COMPLEX
    for chunk in flat_chunks(source.raw(ref)):
        elements = chunk.reshape(-1, 2) if is_complex else chunk
        bad = damaged(elements, ref.element, nonnegative=ref.role.is_nonnegative)
        if bad.any():
            yield start + np.flatnonzero(bad)
        start += len(elements)


def _write(target: BinaryIO, stored: StoredTensor, index: NDArray[np.int64], raw: Raw) -> None:
    """Write elements to their places, neighbours in one go."""
    assert stored.extent is not None
    coordinates = np.unravel_index(index, stored.shape) if stored.shape else ()
    places = np.full(len(index), stored.offset, dtype=np.int64)
    for along, stride in zip(coordinates, stored.strides, strict=True):
        places += along * stride
    size = stored.dtype.itemsize
    order = np.argsort(places, kind="stable")
    places, raw = places[order], raw[order]
    if not stored.little_endian:
        raw = raw.astype(raw.dtype.newbyteorder(">"))
    breaks = np.flatnonzero(np.diff(places) != 1) + 1
    for run_places, run_raw in zip(np.split(places, breaks), np.split(raw, breaks), strict=True):
        target.seek(stored.extent.start + int(run_places[0]) * size)
        target.write(run_raw.tobytes())


def _mend_checksum(record: Record, source: FileSource, target: BinaryIO) -> None:
    """Change the stored CRC-32 by as much as the bytes' own changed.

    A checksum that was right becomes right for the new bytes; one that was wrong before stays wrong by the
    same difference, so that a repair does not hide bit rot; one that was never computed (0) stays 0.
    """
    before = after = 0
    end = record.extent.start + record.extent.nbytes
    for start in range(record.extent.start, end, 1 << 20):
        length = min(1 << 20, end - start)
        before = zlib.crc32(source.contents.file.read(start, length), before)
        target.seek(start)
        after = zlib.crc32(target.read(length), after)
    if record.crc == 0 and before != 0:
        return
    mended = (record.crc ^ before ^ after).to_bytes(4, "little")
    for place in record.crc_at:
        target.seek(place)
        target.write(mended)
