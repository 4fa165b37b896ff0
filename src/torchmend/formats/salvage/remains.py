"""What is left of a checkpoint file, whatever its format."""

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.formats import archives, legacy_stream, safetensors, torch_zip
from torchmend.formats.contents import Contents
from torchmend.formats.mapped import MappedFile
from torchmend.formats.pickles.machine import Machine
from torchmend.formats.pickles.tree import read_tree
from torchmend.formats.registry import read_file
from torchmend.formats.salvage.zip_walk import walk
from torchmend.formats.zips import STORED, Member, read_member, read_members

INDEX = "data.pkl"
"""What the name of the record ends with that describes all tensors."""

_INDEXES = (INDEX, "constants.pkl")
"""TorchScript archives have one for the constants of their code, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """What is left of a checkpoint file.

    Args:
        contents: What the file says of itself; a tensor that is not there as a whole is absent, or does not fit
            its storage.
        problem: What is wrong with the file; empty if it is whole.
        checksums: The CRC-32 of compressed records, by name, where it is known.
        index_is_suspect: Whether the index does not have the CRC-32 that is stored for it.
    """

    contents: Contents
    problem: str = ""
    checksums: dict[str, int] = field(default_factory=dict)
    index_is_suspect: bool = False


def read_remains(path: Path) -> Remains:
    """Read what is left of a file.

    Raises:
        FileError: Nothing in it can be named, or its format is not known.
    """
    file = MappedFile(path)
    try:
        if archives.recognises(file):
            return _of_zip(file)
        for form in (safetensors, legacy_stream):
            if form.recognises(file):
                return _tolerant(file, form.read)
    except BaseException:
        file.close()
        raise
    file.close()
    return Remains(contents=read_file(path))


class _Reader(Protocol):
    """A reader that can be told that the file may be cut."""

    def __call__(self, file: MappedFile, *, cut: bool = False) -> Contents:
        """Read the file's structure."""
        ...


def _tolerant(file: MappedFile, read: _Reader) -> Remains:
    try:
        return Remains(contents=read(file))
    except FileError as error:
        return Remains(contents=read(file, cut=True), problem=error.message)


def _of_zip(file: MappedFile) -> Remains:
    problem = ""
    try:
        members = read_members(file)
    except FileError as error:
        problem = error.message
        members = _walked(file)
    contents = archives.read_listed(file, members)
    return Remains(
        contents=contents,
        problem=problem,
        checksums={member.name: member.crc for member in members if member.method != STORED and member.crc},
        index_is_suspect=any(_is_suspect(file, member) for member in members if member.name.endswith(_INDEXES)),
    )


def _is_suspect(file: MappedFile, pickled: Member) -> bool:
    return bool(pickled.crc) and zlib.crc32(_read_index(file, pickled)) != pickled.crc


def _walked(file: MappedFile) -> list[Member]:
    """Find the members of an archive without a directory, by the sizes that its pickle gives them."""
    for member in walk(file, {}):
        if member.name.endswith(INDEX) and not _is_cut(member):
            claims = _claims(file, member)
            return [each for each in walk(file, claims) if each.name in claims or not _is_cut(each)]
    raise FileError(
        Code.TRUNCATED,
        f"What is left of the archive, {file.size:,} bytes, ends before or inside {INDEX}, the index that tells the "
        "names, types and shapes of its tensors. Nothing can be recovered without it.",
        "Use an earlier checkpoint.",
    )


def _is_cut(member: Member) -> bool:
    return member.method == STORED and member.nbytes < member.size


def _claims(file: MappedFile, pickled: Member) -> dict[str, int]:
    """Return the sizes of storages, by the names of their records."""
    tree = read_tree(Machine(_read_index(file, pickled)).run())
    prefix = pickled.name.removesuffix(INDEX) + "data/"
    return {prefix + spec.storage.key: spec.storage.nbytes for _, spec in tree.leaves if spec.storage}


def _read_index(file: MappedFile, pickled: Member) -> bytes:
    limit = torch_zip.LARGEST_PICKLE if pickled.method == STORED else torch_zip.LARGEST_INFLATED
    return read_member(file, pickled, limit)
