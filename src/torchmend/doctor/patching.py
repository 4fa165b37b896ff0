"""Apply a repair plan to a copy of a file: only the damaged elements' bytes and their checksums change."""

import struct
import zlib
from bisect import bisect_left
from collections.abc import Hashable, Mapping
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from torchmend.doctor.copies import WorkingCopy
from torchmend.doctor.file_source import FileSource
from torchmend.doctor.journal import Journal, Offsets
from torchmend.facts.plans import RepairPlan
from torchmend.facts.tensors import Scalar
from torchmend.formats.checksums import crc_of
from torchmend.formats.contents import Contents, Extent, Record, StoredTensor
from torchmend.measure.bits import Raw
from torchmend.repairs.patches import patches

_WINDOW = 1 << 18
"""Scattered elements inside so many bytes are written together."""

_NEAR = 1 << 12
"""Up to so many bytes between two elements are read and written along: cheaper than a write of its own for each."""


def apply_plan(
    plan: RepairPlan, source: FileSource, copy: WorkingCopy, donors: Mapping[str, FileSource]
) -> dict[int, Journal]:
    """Write a plan's edits into a copy of the source, and mend its checksums.

    Args:
        plan: Made for this source.
        source: The checkpoint as it is; only read.
        copy: Where to write.
        donors: The sources that the plan's copies name.

    Returns:
        Every byte range that changed, for each of the files that did.
    """
    places = copy.places
    stored = dict(zip(source.refs, places.tensors, strict=True))
    scalars = {scalar.path: scalar for scalar in places.scalars}
    written: set[Hashable] = set()
    with _Targets(copy) as targets:
        for edit in plan.edits:
            targets.touch(_extent(stored[edit.ref]))
        for scalar in plan.scalars:
            targets.touch(_place(scalars[scalar.scalar.path]))
        # Before anything is written: the places may be read from the very files that are written to
        before = [(record, _crc(record, places)) for record in places.records if targets.has_touched(record.extent)]
        for edit in plan.edits:
            if edit.ref.storage in written:  # another name of the same elements
                continue
            written.add(edit.ref.storage)
            for index, raw in patches(edit, source, donors):
                _write_elements(targets, stored[edit.ref], index, raw)
        for scalar in plan.scalars:
            _write_scalar(targets, scalars[scalar.scalar.path], scalar.value)
        for record, crc in before:
            _mend_checksum(record, crc, targets)
    return targets.journals


class _Targets:
    """The files of a working copy, opened when they are first written to, what will change and what was written."""

    def __init__(self, copy: WorkingCopy) -> None:
        self.journals: dict[int, Journal] = {}
        self._copy = copy
        self._opened: dict[int, BinaryIO] = {}
        self._touched: dict[int, set[int]] = {}
        self._sorted: dict[int, list[int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._opened.values():
            file.close()

    def file(self, number: int) -> BinaryIO:
        """Return a file, open for reading and writing."""
        if number not in self._opened:
            self._opened[number] = self._copy.files[number].open("r+b")
            self.journals[number] = Journal()
        return self._opened[number]

    def touch(self, extent: Extent) -> None:
        """Note that the bytes at an extent will change."""
        self._touched.setdefault(extent.file, set()).add(extent.start)

    def has_touched(self, extent: Extent) -> bool:
        """Return whether something inside an extent was noted. Nothing is noted any more once this was asked."""
        if extent.file not in self._sorted:
            self._sorted[extent.file] = sorted(self._touched.get(extent.file, ()))
        places = self._sorted[extent.file]
        first = bisect_left(places, extent.start)
        return first < len(places) and places[first] < extent.start + extent.nbytes


def _write_scalar(targets: _Targets, scalar: Scalar, value: float) -> None:
    """Write a number to its place."""
    place = _place(scalar)
    target = targets.file(place.file)
    target.seek(place.start)
    target.write(struct.pack(">d", value))
    targets.journals[place.file].add(np.array([place.start]), place.nbytes)


def _place(scalar: Scalar) -> Extent:
    assert scalar.place is not None, f"{scalar.dotted} cannot be patched, and the plan should not say so"
    return Extent(start=scalar.place, nbytes=8, file=scalar.file)


def _extent(stored: StoredTensor) -> Extent:
    assert stored.extent is not None, f"{stored.name} cannot be patched, and the plan should not say so"
    return stored.extent


def _write_elements(targets: _Targets, stored: StoredTensor, index: NDArray[np.int64], raw: Raw) -> None:
    """Write elements to their places in the file, near ones in one go."""
    extent = _extent(stored)
    if not len(index):
        return
    target = targets.file(extent.file)
    coordinates = np.unravel_index(index, stored.shape) if stored.shape else ()
    places = np.full(len(index), stored.offset, dtype=np.int64)
    for along, stride in zip(coordinates, stored.strides, strict=True):
        places += along * stride
    size = stored.dtype.itemsize
    order = np.argsort(places, kind="stable")
    starts, raw = extent.start + places[order] * size, raw[order]
    if not stored.little_endian:
        raw = raw.astype(raw.dtype.newbyteorder(">"))
    new = np.ascontiguousarray(raw).view(np.uint8).reshape(-1, size)
    targets.journals[extent.file].add(starts, size)
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


def _crc(record: Record, places: Contents) -> int:
    return crc_of(places.files[record.extent.file].buffer, record.extent.start, record.extent.nbytes)


def _mend_checksum(record: Record, before: int, targets: _Targets) -> None:
    """Change the stored CRC-32 by as much as the bytes' own changed.

    A checksum that was right becomes right for the new bytes; one that was wrong before stays wrong by the
    same difference, so that a repair does not hide bit rot; one that was never computed (0) stays 0.
    """
    extent, target = record.extent, targets.file(record.extent.file)
    after = 0
    end = extent.start + extent.nbytes
    for start in range(extent.start, end, 1 << 20):
        length = min(1 << 20, end - start)
        target.seek(start)
        after = zlib.crc32(target.read(length), after)
    if before == after or (record.crc == 0 and before != 0):
        return
    mended = (record.crc ^ before ^ after).to_bytes(4, "little")
    for place in record.crc_at:
        target.seek(place)
        target.write(mended)
    targets.journals[extent.file].add(np.array(record.crc_at, dtype=np.int64), 4)
