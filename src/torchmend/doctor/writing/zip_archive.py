"""Write zip archives byte for byte as torch does: stored records, aligned, checksums behind the payloads.

The standard library's `zipfile` aligns nothing, and torch can compute where a storage starts only if the
headers are laid out as its own writer does it. Layout: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7 to 4.3.16 and
4.5.3 (zip64); what torch makes of it, by comparison with its files.
"""

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

ALIGNMENT = 64

_UTF8, _DESCRIPTOR = 1 << 11, 1 << 3
_FULL32, _FULL16 = 0xFFFF_FFFF, 0xFFFF
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_END = struct.Struct("<4s4H2LH")
_EXTRA = struct.Struct("<2sH")


@dataclass(frozen=True, slots=True)
class _Entry:
    name: bytes
    header: int
    nbytes: int
    crc: int


class ZipArchive:
    """A zip archive under construction.

    Args:
        out: An empty file; it is only written to, from the start to the end.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._at = 0
        self._entries: list[_Entry] = []

    def add(self, name: str, nbytes: int, chunks: Iterable[bytes | memoryview]) -> None:
        """Write a record.

        Args:
            name: What it is called.
            nbytes: How many bytes the chunks have together.
            chunks: Its bytes.
        """
        header, raw_name = self._at, name.encode()
        wide = _wide(header, nbytes)
        start = header + _LOCAL.size + len(raw_name) + len(wide) + _EXTRA.size
        padding = -start % ALIGNMENT
        extra = wide + _EXTRA.pack(b"FB", padding) + b"Z" * padding
        self._write(
            _LOCAL.pack(b"PK\x03\x04", 0, _flags(nbytes), 0, 0, 0, 0, 0, 0, len(raw_name), len(extra))
            + raw_name
            + extra
        )
        crc = 0
        for chunk in chunks:
            crc = zlib.crc32(chunk, crc)
            self._write(chunk)
        assert self._at == start + padding + nbytes, f"{name} has another size than announced"
        if nbytes:
            layout = "<4sLQQ" if wide else "<4s3L"
            self._write(struct.pack(layout, b"PK\x07\x08", crc, nbytes, nbytes))
        self._entries.append(_Entry(raw_name, header, nbytes, crc))

    def finish(self) -> None:
        """Write the directory."""
        start = self._at
        for entry in self._entries:
            self._write(_directory_entry(entry))
        size, end64, count = self._at - start, self._at, len(self._entries)
        self._write(_END64.pack(b"PK\x06\x06", _END64.size - 12, 0x31E, 45, 0, 0, count, count, size, start))
        self._write(_LOCATOR.pack(b"PK\x06\x07", 0, end64, 1))
        few = min(count, _FULL16)
        self._write(_END.pack(b"PK\x05\x06", 0, 0, few, few, min(size, _FULL32), min(start, _FULL32), 0))

    def _write(self, data: bytes | memoryview) -> None:
        self._out.write(data)
        self._at += memoryview(data).nbytes


def _flags(nbytes: int) -> int:
    return _UTF8 | (_DESCRIPTOR if nbytes else 0)


def _wide(header: int, nbytes: int) -> bytes:
    """Return the zip64 extra field, with what overflows 32 bits; empty where nothing does."""
    values = [nbytes, nbytes] if nbytes >= _FULL32 else []
    values += [header] if header >= _FULL32 else []
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values) if values else b""


def _directory_entry(entry: _Entry) -> bytes:
    wide = _wide(entry.header, entry.nbytes)
    size, header = min(entry.nbytes, _FULL32), min(entry.header, _FULL32)
    lengths = (len(entry.name), len(wide), 0, 0, 0)
    fields = (0, 0, _flags(entry.nbytes), 0, 0, 0, entry.crc, size, size, *lengths, 0, header)
    return _CENTRAL.pack(b"PK\x01\x02", *fields) + entry.name + wide
