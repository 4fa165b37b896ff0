"""Find the members of a zip archive without its directory, from one local header to the next.

Torch leaves sizes and checksums out of its local headers and writes them behind each payload. So the end of a
payload is found by what the pickle says of its size, and failing that by the descriptor that follows it.
Layout: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7 to 4.3.9 and 4.5.3 (zip64).
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torchmend.formats.inflating import LEAST_LIMIT, MOST_TIMES
from torchmend.formats.mapped import MappedFile
from torchmend.formats.zips import DEFLATED, HAS_DESCRIPTOR, LOCAL, LOCAL_MAGIC, STORED, Member, widen

_DESCRIPTOR_MAGIC = b"PK\x07\x08"
_DESCRIPTORS = (struct.Struct("<4sLLL"), struct.Struct("<4sLQQ"))
_LONGEST = 24
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class _Header:
    """A local header: the sizes and the checksum are None where they follow the payload."""

    name: str
    method: int
    at: int
    start: int
    nbytes: int | None
    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class _Payload:
    """What follows a local header.

    Args:
        nbytes: Bytes of the payload that are in the file.
        size: Bytes that it has uncompressed; more than `nbytes` for a stored one that is cut.
        crc: The checksum; 0 where it is not known.
        end: Where the next header is to be looked for; None where the walk ends.
    """

    nbytes: int
    size: int
    crc: int
    end: int | None


def walk(file: MappedFile, claims: Mapping[str, int]) -> Iterator[Member]:
    """Yield the members of an archive up to its end or to the first place that cannot be understood.

    The last member may be the beginning of a stored one: it then has fewer bytes than its size.

    Args:
        file: The archive.
        claims: Sizes of members as far as they are known, by name.
    """
    budget = max(LEAST_LIMIT, MOST_TIMES * file.size)
    at: int | None = 0
    while at is not None and (header := _header(file, at)) is not None:
        found = _payload(file, header, claims.get(header.name), budget)
        if found is None:
            return
        if header.method != STORED:
            budget -= found.size
        yield Member(
            name=header.name,
            method=header.method,
            crc=found.crc,
            entry=header.at,
            header=header.at,
            start=header.start,
            nbytes=found.nbytes,
            size=found.size,
            crc_at=(),
        )
        at = found.end


def _header(file: MappedFile, at: int) -> _Header | None:
    raw = file.read(at, LOCAL.size)
    if len(raw) < LOCAL.size or raw[:4] != LOCAL_MAGIC:
        return None
    _, _, flags, method, _, _, crc, nbytes, size, name_length, extra_length = LOCAL.unpack(raw)
    start = at + LOCAL.size + name_length + extra_length
    if start > file.size:
        return None
    name = file.read(at + LOCAL.size, name_length).decode("utf-8", "replace")
    size, nbytes, _ = widen(file.read(start - extra_length, extra_length), size, nbytes, 0)
    follows = bool(flags & HAS_DESCRIPTOR) and not nbytes
    return _Header(name, method, at, start, None if follows else nbytes, size, crc)


def _payload(file: MappedFile, header: _Header, claim: int | None, budget: int) -> _Payload | None:
    """Find a payload's end; None where it cannot be told, or is of no use without it."""
    if header.nbytes is not None:
        have = min(header.nbytes, file.size - header.start)
        if have == header.nbytes:
            return _Payload(have, header.size, header.crc, _behind(file, header.start + have, have, header.size))
        return _Payload(have, header.nbytes, 0, None) if header.method == STORED else None
    if header.method == DEFLATED:
        return _deflated(file, header.start, budget)
    if header.method != STORED:
        return None
    return _stored(file, header.start, claim)


def _behind(file: MappedFile, end: int, nbytes: int, size: int) -> int:
    """Return where the next header is: behind the descriptor, if there is one."""
    found = _descriptor(file, end, nbytes, size)
    return end + found[1] if found else end


def _stored(file: MappedFile, start: int, claim: int | None) -> _Payload | None:
    if claim is not None:
        end = start + claim
        if found := _descriptor(file, end, claim, claim):
            return _Payload(claim, claim, found[0], end + found[1])
        if end > file.size:
            return _Payload(file.size - start, claim, 0, None)
        if _is_cut_descriptor(file, end):
            return _Payload(claim, claim, 0, None)
    at = file.buffer.find(_DESCRIPTOR_MAGIC, start)
    while at >= 0:
        if found := _descriptor(file, at, at - start, at - start):
            return _Payload(at - start, at - start, found[0], at + found[1])
        at = file.buffer.find(_DESCRIPTOR_MAGIC, at + 1)
    return None


def _descriptor(file: MappedFile, at: int, nbytes: int, size: int) -> tuple[int, int] | None:
    """Return the checksum in a payload's descriptor, and the descriptor's length; None if there is none.

    Args:
        file: The archive.
        at: Where it would start.
        nbytes: The payload's bytes.
        size: Its bytes when inflated: the same for a stored one.
    """
    raw = file.read(at, _LONGEST)
    for layout in _DESCRIPTORS:
        if len(raw) >= layout.size:
            magic, crc, *sizes = layout.unpack_from(raw)
            if magic == _DESCRIPTOR_MAGIC and sizes == [nbytes, size]:
                return crc, layout.size
    return None


def _is_cut_descriptor(file: MappedFile, at: int) -> bool:
    """Return whether the file ends inside a descriptor, or right before it."""
    raw = file.read(at, _LONGEST)
    return len(raw) < _LONGEST and raw[:4] == _DESCRIPTOR_MAGIC[: len(raw)]


def _deflated(file: MappedFile, start: int, budget: int) -> _Payload | None:
    """Inflate a payload to find its end; None if it has none, or inflates to more than the budget."""
    inflater = zlib.decompressobj(-15)
    at, size = start, 0
    pending = b""
    try:
        while not inflater.eof:
            if not pending:
                pending = file.read(at, _PIECE)
                at += len(pending)
                if not pending:
                    return None
            size += len(inflater.decompress(pending, _PIECE))
            pending = inflater.unconsumed_tail
            if size > budget:
                return None
    except zlib.error:
        return None
    end = at - len(inflater.unused_data)
    found = _descriptor(file, end, end - start, size)
    return _Payload(end - start, size, found[0] if found else 0, end + (found[1] if found else 0))
