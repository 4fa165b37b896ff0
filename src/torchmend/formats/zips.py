"""Where the members of a zip archive lie: central directory, local headers, checksums.

The standard library's `zipfile` tells neither where a member's bytes start nor where its checksum stands.
Layout: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7 to 4.3.16 and 4.5.3 (zip64).
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.formats.sections import Readable

STORED, DEFLATED = 0, 8
LOCAL_MAGIC = b"PK\x03\x04"
END64_MAGIC = b"PK\x06\x06"

END = struct.Struct("<4s4H2LH")
END64_LOCATOR = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
CENTRAL = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
FULL32, FULL16 = 0xFFFF_FFFF, 0xFFFF
HAS_DESCRIPTOR = 1 << 3
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member of the archive.

    Args:
        name: As the archive spells it.
        method: 0 stored, 8 deflated.
        crc: CRC-32 of the uncompressed bytes, as the central directory has it.
        entry: Where its entry in the central directory starts in the file.
        header: Where its local header starts in the file.
        start: Where its bytes start in the file.
        nbytes: How many bytes it takes in the file.
        size: How many it has uncompressed.
        crc_at: Every place where the CRC-32 stands.
    """

    name: str
    method: int
    crc: int
    entry: int
    header: int
    start: int
    nbytes: int
    size: int
    crc_at: tuple[int, ...]


def read_members(file: Readable) -> list[Member]:
    """List the archive's members in the order of the central directory.

    Raises:
        FileError: The archive is cut off, or its parts contradict each other.
    """
    count, start, size = find_directory(file)
    if start + size > file.size or count * CENTRAL.size > size:
        raise _malformed(f"a directory of {count:,} members at byte {start:,} in a file of {file.size:,} bytes")
    directory = file.read(start, size)
    members: list[Member] = []
    at = 0
    for _ in range(count):
        if at + CENTRAL.size > len(directory):
            raise _malformed("a directory that ends inside an entry")
        member, length = _read_entry(file, directory, at, start)
        members.append(member)
        at += length
    return members


def _malformed(what: str) -> FileError:
    return FileError(Code.UNREADABLE, f"The zip archive contradicts itself: {what}.", "Use an earlier checkpoint.")


def find_directory(file: Readable) -> tuple[int, int, int]:
    """Return (members, start, size) of the central directory."""
    tail_start = max(0, file.size - END.size - FULL16)
    tail = file.read(tail_start, file.size - tail_start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + END.size > len(tail):
        raise FileError(
            Code.TRUNCATED,
            f"The file is cut off: a zip archive of {file.size:,} bytes without the directory at its end.",
            "The save was interrupted, by a full disk or a kill; use an earlier checkpoint. "
            "`torchmend salvage` saves what is whole.",
        )
    _, _, _, _, count, size, start, _ = END.unpack_from(tail, at)
    locator_at = tail_start + at - END64_LOCATOR.size
    locator = file.read(max(locator_at, 0), END64_LOCATOR.size)
    if locator_at < 0 or locator[:4] != b"PK\x06\x07":
        if count == FULL16 or FULL32 in (size, start):
            raise _malformed("it needs a zip64 directory and has none")
        return count, start, size
    _, _, end64_at, _ = END64_LOCATOR.unpack(locator)
    end64 = file.read(end64_at, END64.size)
    if len(end64) < END64.size or end64[:4] != END64_MAGIC:
        raise _malformed("it needs a zip64 directory and has none")
    *_, count, size, start = END64.unpack(end64)
    return count, start, size


def _read_entry(file: Readable, directory: bytes, at: int, start: int) -> tuple[Member, int]:
    fields = CENTRAL.unpack_from(directory, at)
    magic, flags, method, crc = fields[0], fields[3], fields[4], fields[7]
    nbytes, size, name_length, extra_length, comment_length = fields[8:13]
    header = fields[16]
    length = CENTRAL.size + name_length + extra_length + comment_length
    if magic != b"PK\x01\x02" or at + length > len(directory):
        raise _malformed("a directory entry that is none")
    name_at = at + CENTRAL.size
    name = directory[name_at : name_at + name_length].decode("utf-8", "replace")
    extra = directory[name_at + name_length : name_at + name_length + extra_length]
    size, nbytes, header = widen(extra, size, nbytes, header)
    data, local_crc = _local_header(file, header, name)
    if data + nbytes > file.size or (method == STORED and nbytes != size):
        raise FileError(
            Code.OUT_OF_BOUNDS,
            f"{name} claims {nbytes:,} bytes at byte {data:,} of a file of {file.size:,}.",
            "The file was cut off or pieced together wrongly; use an earlier checkpoint.",
        )
    crc_at = [start + at + 16]
    if local_crc:
        crc_at.append(header + 14)
    if flags & HAS_DESCRIPTOR and nbytes:
        marked = file.read(data + nbytes, 4) == b"PK\x07\x08"
        crc_at.append(data + nbytes + (4 if marked else 0))
    crc_at = [place for place in crc_at if file.read(place, 4) == struct.pack("<L", crc)]
    member = Member(
        name=name,
        method=method,
        crc=crc,
        entry=start + at,
        header=header,
        start=data,
        nbytes=nbytes,
        size=size,
        crc_at=tuple(crc_at),
    )
    return member, length


def widen(extra: bytes, size: int, nbytes: int, header: int) -> tuple[int, int, int]:
    """Replace the fields that overflowed 32 bits by those of the zip64 extra field."""
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, at)
        if tag == 1:
            wide = iter(struct.unpack_from(f"<{min(length, len(extra) - at - 4) // 8}Q", extra, at + 4))
            size, nbytes, header = (next(wide, value) if value == FULL32 else value for value in (size, nbytes, header))
        at += 4 + length
    return size, nbytes, header


def _local_header(file: Readable, at: int, name: str) -> tuple[int, int]:
    """Return where the member's bytes start, and the CRC-32 in the local header."""
    local = file.read(at, LOCAL.size)
    if len(local) < LOCAL.size or local[:4] != LOCAL_MAGIC:
        raise _malformed(f"no local header for {name} at byte {at:,}")
    fields = LOCAL.unpack(local)
    return at + LOCAL.size + fields[9] + fields[10], fields[6]


def read_member(file: Readable, member: Member, limit: int) -> bytes:
    """Return a member's bytes, inflated if need be.

    Raises:
        FileError: It is larger than `limit`, or does not inflate.
    """
    if member.size > limit:
        raise _malformed(f"{member.name} claims {member.size:,} bytes, more than {limit:,}")
    data = file.read(member.start, member.nbytes)
    if member.method == STORED:
        return data
    if member.method != DEFLATED:
        raise _malformed(f"{member.name} is compressed by method {member.method}")
    try:
        inflated = b"".join(inflated_pieces(file, member, limit))
    except zlib.error as error:
        raise _malformed(f"{member.name} does not inflate ({error})") from None
    if len(inflated) > limit:
        raise _malformed(f"{member.name} inflates to more than {limit:,} bytes")
    return inflated


def inflated_pieces(file: Readable, member: Member, limit: int) -> Iterator[bytes]:
    """Yield the inflated bytes of a deflated member, in pieces of a megabyte at most.

    Args:
        file: The archive.
        member: A deflated member.
        limit: When one byte more than this was yielded, no more follow.

    Raises:
        zlib.error: They are no deflate stream.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    end, left = member.start + member.nbytes, limit + 1
    for start in range(member.start, end, _PIECE):
        waiting = file.read(start, min(_PIECE, end - start))
        while waiting and left > 0 and not inflater.eof:
            piece = inflater.decompress(waiting, min(_PIECE, left))
            left -= len(piece)
            waiting = inflater.unconsumed_tail
            yield piece
        if left <= 0 or inflater.eof:
            return
    yield inflater.flush()
