"""Which format a checkpoint is in, told by its content. A new format is one module and one entry here."""

from pathlib import Path

from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.formats import archives, dcp, legacy_stream, legacy_tar, safetensors, sharded
from torchmend.formats.contents import Contents
from torchmend.formats.mapped import MappedFile
from torchmend.formats.protocols import Claim, FileFormat, FolderFormat

FILES: tuple[FileFormat, ...] = (archives, legacy_stream, legacy_tar, safetensors)
"""Formats of one file, in the order in which they are asked."""

FOLDERS: tuple[FolderFormat, ...] = (sharded, dcp)
"""Formats of several files."""

_MOST_NAMED = 3


def read_contents(path: Path) -> Contents:
    """Open a checkpoint, a file or a folder, and read its structure, not its tensors.

    Raises:
        FileError: It cannot be read, or is in no format that is known.
    """
    claim = _claim(path)
    if claim is not None:
        chosen, form = claim
        return form.read(chosen.path, read_file)
    return read_file(path)


def read_file(path: Path) -> Contents:
    """Open a checkpoint that is one file."""
    file = MappedFile(path)
    try:
        for form in FILES:
            if form.recognises(file):
                return form.read(file)
        raise _unknown(file)
    except BaseException:
        file.close()
        raise


def claims(folder: Path) -> list[tuple[Claim, FolderFormat]]:
    """List the checkpoints of several files whose files lie in a folder, with their formats."""
    return [(claim, form) for form in FOLDERS for claim in form.claims(folder)]


def _claim(path: Path) -> tuple[Claim, FolderFormat] | None:
    """Find the checkpoint of several files that a path names: its index, or the folder that holds nothing else.

    Raises:
        FileError: The folder holds several.
    """
    if not path.is_dir():
        found = claims(path.parent) if path.suffix == ".json" else []
        return next((each for each in found if each[0].path == path), None)
    found = claims(path)
    if len(found) > 1:
        named = ", ".join(str(claim.path) for claim, _ in found[:_MOST_NAMED])
        raise FileError(Code.UNREADABLE, f"This folder holds {len(found):,} checkpoints.", f"Name one: {named}.")
    return found[0] if found else None


def _unknown(file: MappedFile) -> FileError:
    start = file.read(0, 8)
    return FileError(
        Code.NOT_A_CHECKPOINT,
        f"No checkpoint in a format that is known: it starts with {start!r}.",
        "Name a file that torch.save or safetensors wrote.",
    )
