"""Compare checksums that a file carries with its bytes: bit rot, and careless patches, show here."""

import zlib
from collections.abc import Hashable, Mapping

import numpy as np

from torchmend.formats.contents import Contents, Extent, Oddity, Record
from torchmend.formats.layout import wrong_checksum
from torchmend.formats.mapped import Buffer
from torchmend.measure.chunks import CHUNK_BYTES
from torchmend.measure.scan import Stretch
from torchmend.measure.sums import Bytes

LEAST_WORK, WORK_TIMES = 64 << 20, 2


def crc_of(buffer: Buffer, start: int, nbytes: int) -> int:
    """Return the CRC-32 of a stretch of a buffer, read in bounded pieces."""
    crc = 0
    with memoryview(buffer) as view:
        for at in range(start, start + nbytes, CHUNK_BYTES):
            crc = zlib.crc32(view[at : min(at + CHUNK_BYTES, start + nbytes)], crc)
    return crc


def checked_stretches(contents: Contents) -> list[Stretch]:
    """Return the bytes that checksums cover, each under its record's index.

    A stored sum of zero means that none was computed, unless it happens to be right. Of records that lie over one
    another (which is an oddity of its own) so many are checked as make up the files' size a few times.

    Args:
        contents: Where checksums are.
    """
    left = LEAST_WORK + WORK_TIMES * contents.nbytes
    stretches = []
    for index, record in enumerate(contents.records):
        left -= record.extent.nbytes
        if record.crc and left >= 0:
            stretches.append(Stretch(key=index, data=_bytes(contents, record.extent)))
    return stretches


def _bytes(contents: Contents, extent: Extent) -> Bytes:
    return np.frombuffer(contents.files[extent.file].buffer, np.uint8)[extent.start : extent.start + extent.nbytes]


def wrong_records(contents: Contents, sums: Mapping[Hashable, int]) -> list[tuple[Record, int]]:
    """Return the records whose bytes do not have the CRC-32 that is stored for them, with the one that they have.

    Args:
        contents: Where checksums are.
        sums: Those of the bytes, under the records' indices; a record without one is passed over.
    """
    found = ((record, sums.get(index, record.crc)) for index, record in enumerate(contents.records))
    return [(record, crc) for record, crc in found if crc != record.crc]


def wrong_checksums(contents: Contents, sums: Mapping[Hashable, int]) -> list[Oddity]:
    """Return one oddity for each of the `wrong_records`."""
    return [wrong_checksum(record.name, crc, record.crc) for record, crc in wrong_records(contents, sums)]
