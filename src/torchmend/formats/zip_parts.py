"""The headers of a zip archive, written: for archives of which some members are stored anew.

Layout: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16 and 4.5.3 (zip64).
"""

import struct
from collections.abc import Iterator

from torchmend.formats.mapped import MappedFile
from torchmend.formats.zips import (
    CENTRAL,
    END,
    END64,
    END64_LOCATOR,
    END64_MAGIC,
    FULL16,
    FULL32,
    HAS_DESCRIPTOR,
    LOCAL,
    LOCAL_MAGIC,
    STORED,
    Member,
)

ALIGNMENT = 64
"""Torch puts the bytes of storages at multiples of this."""

_ZIP64, _PADDING = 1, 0x4246
"""Tags of extra fields: wide sizes, and what torch pads with."""
_NEEDS_ZIP64 = 45


def stored_header(file: MappedFile, member: Member, at: int) -> bytes:
    """Write the local header of a member that is stored from now on, padded so that its bytes are aligned.

    Args:
        file: The archive as it is.
        member: The member as it is.
        at: Where the header will start.
    """
    _, version, flags, _, time, date, *_, name_length, extra_length = LOCAL.unpack(file.read(member.header, LOCAL.size))
    name = file.read(member.header + LOCAL.size, name_length)
    extra = _without(file.read(member.header + LOCAL.size + name_length, extra_length), _ZIP64, _PADDING)
    narrow = member.size
    if narrow >= FULL32:
        extra, narrow, version = struct.pack("<2H2Q", _ZIP64, 16, narrow, narrow) + extra, FULL32, _NEEDS_ZIP64
    padding = -(at + LOCAL.size + len(name) + len(extra) + 4) % ALIGNMENT
    extra += struct.pack("<2H", _PADDING, padding) + b"Z" * padding
    fields = (version, flags & ~HAS_DESCRIPTOR, STORED, time, date, member.crc, narrow, narrow, len(name), len(extra))
    return LOCAL.pack(LOCAL_MAGIC, *fields) + name + extra


def central_entry(file: MappedFile, member: Member, header: int, *, stored: bool) -> bytes:
    """Write a member's entry in the central directory.

    Args:
        file: The archive as it is.
        member: The member as it is.
        header: Where its local header will start.
        stored: Whether it is stored from now on, or else stays as it is.
    """
    fields = list(CENTRAL.unpack(file.read(member.entry, CENTRAL.size)))
    rest = member.entry + CENTRAL.size
    name = file.read(rest, fields[10])
    extra = _without(file.read(rest + fields[10], fields[11]), _ZIP64)
    comment = file.read(rest + fields[10] + fields[11], fields[12])
    nbytes, size = member.nbytes, member.size
    if stored:
        fields[3] &= ~HAS_DESCRIPTOR
        fields[4], nbytes = STORED, size
    wide = [value for value in (size, nbytes, header) if value >= FULL32]
    if wide:
        extra = struct.pack(f"<2H{len(wide)}Q", _ZIP64, 8 * len(wide), *wide) + extra
        fields[2] = max(fields[2], _NEEDS_ZIP64)
    fields[8], fields[9], fields[16] = (min(value, FULL32) for value in (nbytes, size, header))
    fields[11] = len(extra)
    return CENTRAL.pack(*fields) + name + extra + comment


def end_records(count: int, start: int, size: int, *, wide: bool) -> bytes:
    """Write what stands behind the central directory.

    Args:
        count: Members.
        start: Where the directory starts.
        size: Its bytes.
        wide: Whether to write the zip64 records even if nothing needs them.
    """
    records = b""
    if wide or count >= FULL16 or max(start, size) >= FULL32:
        length = END64.size - 12
        records += END64.pack(
            END64_MAGIC, length, _NEEDS_ZIP64, _NEEDS_ZIP64, 0, 0, count, count, size, start
        ) + END64_LOCATOR.pack(b"PK\x06\x07", 0, start + size, 1)
    few = min(count, FULL16)
    return records + END.pack(b"PK\x05\x06", 0, 0, few, few, min(size, FULL32), min(start, FULL32), 0)


def descriptor_length(file: MappedFile, member: Member) -> int | None:
    """Return how many bytes the data descriptor behind a member takes, 0 without one; None if it is none."""
    (flags,) = struct.unpack("<H", file.read(member.entry + 8, 2))
    if not flags & HAS_DESCRIPTOR:
        return 0
    behind = file.read(member.start + member.nbytes, 24)
    for mark in (b"PK\x07\x08", b""):
        for layout in ("<L2L", "<L2Q"):
            expected = struct.pack(layout, member.crc, *_fitting(layout, member.nbytes, member.size))
            if behind.startswith(mark + expected):
                return len(mark + expected)
    return None


def _fitting(layout: str, *sizes: int) -> tuple[int, ...]:
    return sizes if layout.endswith("Q") else tuple(size & FULL32 for size in sizes)


def _without(extra: bytes, *tags: int) -> bytes:
    return b"".join(extra[start:end] for tag, start, end in _fields(extra) if tag not in tags)


def _fields(extra: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield tag, start and end of each extra field; a torn last one is dropped."""
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, at)
        if at + 4 + length <= len(extra):
            yield tag, at, at + 4 + length
        at += 4 + length
