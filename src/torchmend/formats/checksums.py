"""Compare checksums that a file carries with its bytes: bit rot, and careless patches, show here."""

import zlib
from concurrent.futures import ThreadPoolExecutor

from torchmend.formats.contents import Contents, Extent, Oddity, Record
from torchmend.formats.layout import wrong_checksum
from torchmend.formats.mapped import Buffer
from torchmend.measure.chunks import CHUNK_BYTES

LEAST_WORK, WORK_TIMES = 64 << 20, 2


def crc_of(buffer: Buffer, start: int, nbytes: int) -> int:
    """Return the CRC-32 of a stretch of a buffer, read in bounded pieces."""
    crc = 0
    with memoryview(buffer) as view:
        for at in range(start, start + nbytes, CHUNK_BYTES):
            crc = zlib.crc32(view[at : min(at + CHUNK_BYTES, start + nbytes)], crc)
    return crc


def _crc_of(contents: Contents, extent: Extent) -> int:
    return crc_of(contents.files[extent.file].buffer, extent.start, extent.nbytes)


def wrong_checksums(contents: Contents, *, threads: int) -> list[Oddity]:
    """Return one oddity for each record whose bytes do not have the CRC-32 that is stored for them.

    A stored sum of zero means that none was computed, unless it happens to be right. Of records that lie over one
    another (which is an oddity of its own) so many are checked as make up the files' size a few times.

    Args:
        contents: Where checksums are.
        threads: How many to use; `zlib` works without the interpreter's lock.
    """
    return [
        wrong_checksum(record.name, found, record.crc) for record, found in wrong_records(contents, threads=threads)
    ]


def wrong_records(contents: Contents, *, threads: int) -> list[tuple[Record, int]]:
    """Return the records whose bytes do not have the CRC-32 that is stored for them, with the one that they have.

    Args:
        contents: Where checksums are.
        threads: How many to use.
    """
    left = LEAST_WORK + WORK_TIMES * contents.nbytes
    checked = []
    for record in contents.records:
        left -= record.extent.nbytes
        if record.crc and left >= 0:
            checked.append(record)
    with ThreadPoolExecutor(threads) as pool:
        sums = pool.map(lambda record: _crc_of(contents, record.extent), checked)
        return [(record, found) for record, found in zip(checked, sums, strict=True) if found != record.crc]
