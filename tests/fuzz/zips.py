"""Zip archives that are written field by field, so that every field can lie."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from fuzz import noise

Field = Callable[[int, int], int]
"""(true value, bits) -> what is written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A member before it is written."""

    name: str
    data: bytes
    method: int = 0
    descriptor: bool = False
    zip64: bool = False
    padding: int = 0


def entries_of(archive: bytes) -> list[Entry]:
    """Read an archive that is in order."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return [Entry(info.filename, opened.read(info)) for info in opened.infolist()]


def write(entries: Sequence[Entry], field: Field, *, zip64_end: bool = False) -> bytes:
    """Write an archive as torch does; every number goes through `field`."""
    out, central = bytearray(), bytearray()
    for entry in entries:
        central += _member(out, entry, field)
    start = len(out)
    out += central
    count = len(entries)
    if zip64_end:
        at = len(out)
        out += b"PK\x06\x06" + struct.pack("<Q2H", field(44, 64), 45, 45) + struct.pack("<2L", 0, 0)
        out += struct.pack("<4Q", *(field(n, 64) for n in (count, count, len(central), start)))
        out += b"PK\x06\x07" + struct.pack("<LQL", 0, field(at, 64), 1)
        end = (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    else:
        end = (count, count, len(central), start)
    out += b"PK\x05\x06" + struct.pack("<2H", 0, 0)
    out += struct.pack("<2H2LH", *(field(n, bits) for n, bits in zip(end, (16, 16, 32, 32), strict=True)), field(0, 16))
    return bytes(out)


def _member(out: bytearray, entry: Entry, field: Field) -> bytes:
    """Append a member; return its entry in the directory."""
    packed = entry.data
    if entry.method == 8:
        squeezer = zlib.compressobj(6, zlib.DEFLATED, -15)
        packed = squeezer.compress(entry.data) + squeezer.flush()
    name = entry.name.encode("utf-8", "surrogatepass")
    header, crc, flags = len(out), zlib.crc32(entry.data), 0x0808 if entry.descriptor else 0
    sizes = (crc, len(packed), len(entry.data))
    local = (0, 0, 0) if entry.descriptor else sizes
    extra = struct.pack("<2H", 0x4246, entry.padding) + b"Z" * entry.padding if entry.padding else b""
    out += b"PK\x03\x04" + struct.pack("<5H", 0, field(flags, 16), field(entry.method, 16), 0, 0)
    out += struct.pack("<3L", *(field(n, 32) for n in local)) + struct.pack(
        "<2H", field(len(name), 16), field(len(extra), 16)
    )
    out += name + extra + packed
    if entry.descriptor:
        out += b"PK\x07\x08" + struct.pack("<3L", *(field(n, 32) for n in sizes))
    wide = b""
    stated = (len(packed), len(entry.data), header)
    if entry.zip64:
        wide = struct.pack("<2H3Q", 1, field(24, 16), *(field(n, 64) for n in (len(entry.data), len(packed), header)))
        stated = (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    record = b"PK\x01\x02" + struct.pack("<6H", 45, 45, field(flags, 16), field(entry.method, 16), 0, 0)
    record += struct.pack("<3L", field(crc, 32), field(stated[0], 32), field(stated[1], 32))
    record += struct.pack(
        "<5HLL", field(len(name), 16), field(len(wide), 16), field(0, 16), 0, 0, 0, field(stated[2], 32)
    )
    return record + name + wide


def mutate(rng: Random, entries: Sequence[Entry], *, lies: float) -> bytes:
    """Write an archive in one of the ways that writers have, with fields that lie now and then.

    Args:
        rng: Where chance comes from.
        entries: Members.
        lies: How likely each number is wrong.
    """
    changed = [_variant(rng, entry) for entry in entries]
    for _ in range(rng.randrange(3)):
        at = rng.randrange(len(changed))
        match rng.randrange(5):
            case 0:
                changed.append(changed[at])
            case 1:
                changed[at] = replace(changed[at], name=noise.text(rng))
            case 2:
                changed[at] = replace(changed[at], data=noise.spoil(rng, changed[at].data))
            case 3 if len(changed) > 1:
                del changed[at]
            case _:
                other = rng.choice(changed)
                changed[at] = replace(changed[at], data=other.data)

    def field(value: int, bits: int) -> int:
        return noise.number(rng, value, bits) if lies and rng.random() < lies else value % (1 << bits)

    return write(changed, field, zip64_end=not rng.randrange(3))


def _variant(rng: Random, entry: Entry) -> Entry:
    if rng.randrange(3):
        return replace(entry, descriptor=True, padding=rng.choice((0, 0, 1, 13, 60)))
    return replace(entry, method=rng.choice((0, 8)), descriptor=bool(rng.randrange(2)), zip64=not rng.randrange(3))
