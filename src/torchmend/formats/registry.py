"""Which format a file is in, told by its content. A new format is one module and one entry here."""

from collections.abc import Callable
from pathlib import Path

from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.formats import archives, legacy_stream, legacy_tar, safetensors
from torchmend.formats.contents import Contents
from torchmend.formats.mapped import MappedFile

_FORMATS: tuple[tuple[Callable[[MappedFile], bool], Callable[[MappedFile], Contents]], ...] = (
    (archives.recognises, archives.read),
    (legacy_stream.recognises, legacy_stream.read),
    (legacy_tar.recognises, legacy_tar.read),
    (safetensors.recognises, safetensors.read),
)

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".npz")
"""What checkpoint files are usually called; only used to pick files out of folders."""


def read_contents(path: Path) -> Contents:
    """Open a checkpoint and read its structure, not its tensors.

    Raises:
        FileError: It cannot be read, or is in no format that is known.
    """
    file = MappedFile(path)
    try:
        for recognises, read in _FORMATS:
            if recognises(file):
                return read(file)
        raise _unknown(file)
    except BaseException:
        file.close()
        raise


def _unknown(file: MappedFile) -> FileError:
    start = file.read(0, 8)
    return FileError(
        Code.NOT_A_CHECKPOINT,
        f"No checkpoint in a format that is known: it starts with {start!r}.",
        "Name a file that torch.save or safetensors wrote.",
    )
