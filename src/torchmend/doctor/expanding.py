"""Copy an archive so that some of its compressed records are stored: then a repair can patch their bytes."""

from collections.abc import Collection
from typing import BinaryIO

from torchmend.doctor.splices import Splice
from torchmend.facts.errors import UserError
from torchmend.formats.mapped import MappedFile
from torchmend.formats.zip_parts import central_entry, descriptor_length, end_records, stored_header
from torchmend.formats.zips import END64_MAGIC, Member, find_directory, inflated_pieces, read_members

_PIECE = 1 << 20


def expand(file: MappedFile, packed: Collection[str], target: BinaryIO) -> tuple[Splice, ...]:
    """Write a copy of an archive in which the named records are stored; all others stay as they are.

    Args:
        file: The archive.
        packed: The names of deflated records.
        target: Where the copy goes; empty.

    Returns:
        Where the copy differs.

    Raises:
        UserError: What stands behind a record does not fit it.
    """
    members = read_members(file)
    headers: dict[int, int] = {}
    splices: list[Splice] = []
    copied = 0
    for member in sorted(members, key=lambda each: each.header):
        if member.name not in packed:
            headers[member.entry] = member.header + target.tell() - copied
            continue
        _copy(file, copied, member.header, target)
        headers[member.entry] = at = target.tell()
        target.write(stored_header(file, member, at))
        target.writelines(inflated_pieces(file, member, member.size))
        copied = _end_of(file, member)
        splices.append(Splice(offset=at, length=target.tell() - at, old=copied - member.header))
    _, directory, size = find_directory(file)
    _copy(file, copied, directory, target)
    start = target.tell()
    for member in members:
        target.write(central_entry(file, member, headers[member.entry], stored=member.name in packed))
    wide = file.read(directory + size, 4) == END64_MAGIC
    target.write(end_records(len(members), start, target.tell() - start, wide=wide))
    splices.append(Splice(offset=start, length=target.tell() - start, old=file.size - directory))
    return tuple(splices)


def _end_of(file: MappedFile, member: Member) -> int:
    length = descriptor_length(file, member)
    if length is None:
        raise UserError(
            f"{file.path}: what stands behind the compressed record {member.name} does not fit it, so the record "
            "cannot be replaced. Unpack the archive, pack it again without compression, and repair that."
        )
    return member.start + member.nbytes + length


def _copy(file: MappedFile, start: int, end: int, target: BinaryIO) -> None:
    target.writelines(file.read(at, min(_PIECE, end - at)) for at in range(start, end, _PIECE))
