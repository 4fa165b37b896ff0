"""Apply a repair plan to a copy of a file: only the damaged elements' bytes and their checksums change."""

import zlib
from collections.abc import Hashable, Mapping
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from torchmend.doctor.file_source import FileSource
from torchmend.facts.plans import RepairPlan
from torchmend.formats.contents import Record, StoredTensor
from torchmend.measure.bits import Raw
from torchmend.repair.patches import patches


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
        for index, raw in patches(edit, source, donors):
            _write(target, stored, index, raw)
        assert stored.extent is not None
        touched.add(stored.extent.start)
    for record in source.contents.records:
        if record.extent.start in touched:
            _mend_checksum(record, source, target)


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
