"""Zip archives: what their members are called tells which kind of checkpoint one is. They are listed once."""

from torchmend.formats import npz, torch_zip
from torchmend.formats.contents import Contents
from torchmend.formats.mapped import MappedFile
from torchmend.formats.zips import LOCAL_MAGIC, Member, read_members


def recognises(file: MappedFile) -> bool:
    """Return whether the file starts like a zip archive."""
    return file.read(0, 4) == LOCAL_MAGIC


def read(file: MappedFile) -> Contents:
    """List the members, and read the archive as what they are.

    Raises:
        FileError: It is cut off, malformed, or an archive of something else.
    """
    return read_listed(file, read_members(file))


def read_listed(file: MappedFile, members: list[Member]) -> Contents:
    """Read an archive whose members are known as what they are.

    Raises:
        FileError: It is malformed, or an archive of something else.
    """
    pickled = any(member.name.endswith("data.pkl") for member in members)
    arrays = any(member.name.endswith(npz.SUFFIX) for member in members)
    return npz.read(file, members) if arrays and not pickled else torch_zip.read(file, members)
