"""Apply a repair plan to a copy of a file: only the damaged elements' bytes and their checksums change."""

import struct
import zlib
from bisect import bisect_left
from collections.abc import Hashable, Mapping
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from torchmend.doctor.file_source import FileSource
from torchmend.doctor.journal import Journal, Offsets
from torchmend.facts.plans import RepairPlan, ScalarEdit
from torchmend.formats.contents import Record, StoredTensor
from torchmend.measure.bits import Raw
from torchmend.repairs.patches import patches

_WINDOW = 1 << 18
"""Scattered elements inside so many bytes are written together."""

_NEAR = 1 << 12
"""Up to so many bytes between two elements are read and written along: cheaper than a write of its own for each."""


def apply_plan(
    plan: RepairPlan, source: FileSource, target: BinaryIO, donors: Mapping[str, FileSource], journal: Journal
) -> None:
    """Write a plan's edits into a copy of the source file, and mend its checksums.

    Args:
        plan: Made for this source.
        source: The file as it is; only read.
        target: The copy, open for reading and writing.
        donors: The sources that the plan's copies name.
        journal: Told every byte range that changes.
    """
    written: set[Hashable] = set()
    touched: set[int] = set()
    for edit in plan.edits:
        if edit.ref.storage in written:  # another name of the same elements
            continue
        written.add(edit.ref.storage)
        stored = source.stored[edit.ref]
        assert stored.extent is not None
        for index, raw in patches(edit, source, donors):
            _write_elements(target, stored, index, raw, journal)
        touched.add(stored.extent.start)
    for scalar in plan.scalars:
        touched.add(_write_scalar(target, scalar, journal))
    places = sorted(touched)
    for record in source.contents.records:
        first = bisect_left(places, record.extent.start)
        if first < len(places) and places[first] < record.extent.start + record.extent.nbytes:
            _mend_checksum(record, source, target, journal)


def _write_scalar(target: BinaryIO, edit: ScalarEdit, journal: Journal) -> int:
    """Write a number to its place, which it returns."""
    place = edit.scalar.place
    assert place is not None, f"{edit.scalar.dotted} cannot be patched, and the plan should not say so"
    target.seek(place)
    target.write(struct.pack(">d", edit.value))
    journal.add(np.array([place]), 8)
    return place


def _write_elements(
    target: BinaryIO, stored: StoredTensor, index: NDArray[np.int64], raw: Raw, journal: Journal
) -> None:
    """Write elements to their places in the file, near ones in one go."""
    assert stored.extent is not None
    if not len(index):
        return
    coordinates = np.unravel_index(index, stored.shape) if stored.shape else ()
    places = np.full(len(index), stored.offset, dtype=np.int64)
    for along, stride in zip(coordinates, stored.strides, strict=True):
        places += along * stride
    size = stored.dtype.itemsize
    order = np.argsort(places, kind="stable")
    starts, raw = stored.extent.start + places[order] * size, raw[order]
    if not stored.little_endian:
        raw = raw.astype(raw.dtype.newbyteorder(">"))
    new = np.ascontiguousarray(raw).view(np.uint8).reshape(-1, size)
    journal.add(starts, size)
    breaks = np.flatnonzero((np.diff(starts) > _NEAR) | (np.diff(starts // _WINDOW) != 0)) + 1
    for first, last in zip((0, *breaks.tolist()), (*breaks.tolist(), len(starts)), strict=True):
        _write_together(target, starts[first:last], new[first:last])


def _write_together(target: BinaryIO, starts: Offsets, new: NDArray[np.uint8]) -> None:
    """Write elements that lie near one another: read the stretch, lay the elements over it, write it back."""
    size = new.shape[1]
    begin, end = int(starts[0]), int(starts[-1]) + size
    if np.all(np.diff(starts) == size):
        stretch = new
    else:
        target.seek(begin)
        stretch = np.frombuffer(bytearray(target.read(end - begin)), dtype=np.uint8)
        stretch[(starts - begin)[:, None] + np.arange(size)] = new
    target.seek(begin)
    target.write(stretch.tobytes())


def _mend_checksum(record: Record, source: FileSource, target: BinaryIO, journal: Journal) -> None:
    """Change the stored CRC-32 by as much as the bytes' own changed.

    A checksum that was right becomes right for the new bytes; one that was wrong before stays wrong by the
    same difference, so that a repair does not hide bit rot; one that was never computed (0) stays 0.
    """
    before = after = 0
    end = record.extent.start + record.extent.nbytes
    for start in range(record.extent.start, end, 1 << 20):
        length = min(1 << 20, end - start)
        before = zlib.crc32(source.contents.files[0].read(start, length), before)
        target.seek(start)
        after = zlib.crc32(target.read(length), after)
    if record.crc == 0 and before != 0:
        return
    mended = (record.crc ^ before ^ after).to_bytes(4, "little")
    for place in record.crc_at:
        target.seek(place)
        target.write(mended)
    journal.add(np.array(record.crc_at, dtype=np.int64), 4)
