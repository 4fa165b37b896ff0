"""Compressed records, inflated into a temporary file that has no name: memory stays free, and nothing is left.

What small files inflate to is bounded: a record that would pass the limit is left alone, and said to be.
"""

import mmap
import tempfile
import zlib
from collections.abc import Iterable
from typing import BinaryIO

from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.formats.contents import Oddity
from torchmend.formats.layout import wrong_checksum
from torchmend.formats.sections import Readable
from torchmend.formats.zips import DEFLATED, STORED, Member, inflated_pieces

LEAST_LIMIT = 128 << 20
"""Any file may inflate to so many bytes in all."""

MOST_TIMES = 50
"""Larger files may inflate to so many times their size; float data shrinks by a tenth, zeros by a thousand."""

_ALIGNMENT = 64


class Inflated:
    """The compressed members of an archive that hold tensors, inflated.

    Args:
        file: The archive.
        members: Those that may be needed; stored ones are passed over.

    Attributes:
        views: The bytes of each member by name.
        reasons: Why a member has no bytes here, by name.
        oddities: Members whose bytes do not have the checksum that is stored for them.
    """

    def __init__(self, file: Readable, members: Iterable[Member]) -> None:
        self.views: dict[str, memoryview] = {}
        self.reasons: dict[str, str] = {}
        self.oddities: list[Oddity] = []
        packed = [member for member in members if member.method != STORED]
        if packed:
            self._inflate(file, packed)

    def _inflate(self, file: Readable, packed: list[Member]) -> None:
        left = limit = max(LEAST_LIMIT, MOST_TIMES * file.size)
        places: dict[str, tuple[int, int]] = {}
        with _temporary() as spool:
            for member in packed:
                if member.method != DEFLATED:
                    self.reasons[member.name] = f"it is compressed by method {member.method}, which torch cannot read"
                elif member.size > left:
                    self.reasons[member.name] = f"not scanned: this file would inflate to more than {limit:,} bytes"
                else:
                    start = -(-spool.tell() // _ALIGNMENT) * _ALIGNMENT
                    spool.seek(start)
                    if problem := self._write(file, member, spool):
                        self.reasons[member.name] = problem
                        spool.seek(start)
                        spool.truncate()
                    else:
                        places[member.name] = (start, member.size)
                        left -= member.size
            self._map(spool, places)

    def _map(self, spool: BinaryIO, places: dict[str, tuple[int, int]]) -> None:
        spool.flush()
        if not any(length for _, length in places.values()):
            self.views = {name: memoryview(b"") for name in places}
            return
        view = memoryview(mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ))
        self.views = {name: view[start : start + length] for name, (start, length) in places.items()}

    def _write(self, file: Readable, member: Member, spool: BinaryIO) -> str:
        """Inflate a member into the spool; return what is wrong with it, if anything."""
        written = crc = 0
        try:
            for piece in inflated_pieces(file, member, member.size):
                written += spool.write(piece)
                crc = zlib.crc32(piece, crc)
            spool.flush()
        except zlib.error as error:
            return f"its record {member.name} does not inflate ({error})"
        except OSError as error:
            raise _no_room(error) from None
        if written > member.size:
            return f"its record {member.name} inflates to more than the {member.size:,} bytes that it claims"
        if written < member.size:
            return f"its record {member.name} inflates to {written:,} bytes, where {member.size:,} are expected"
        if member.crc and crc != member.crc:
            self.oddities.append(wrong_checksum(member.name, crc, member.crc))
        return ""


def _temporary() -> BinaryIO:
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise _no_room(error) from None


def _no_room(error: OSError) -> FileError:
    return FileError(
        Code.UNREADABLE,
        f"Its compressed records could not be inflated into a temporary file: {error.strerror}.",
        f"Make room in {tempfile.gettempdir()}, or set TMPDIR to a folder with more room.",
    )
