"""What a format offers. Its module is the format: it has these functions."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torchmend.formats.contents import Contents
from torchmend.formats.mapped import MappedFile


class FileFormat(Protocol):
    """A kind of checkpoint that is one file."""

    def recognises(self, file: MappedFile) -> bool:
        """Return whether the file's content looks like this format; cheap."""
        ...

    def read(self, file: MappedFile) -> Contents:
        """Read what the file holds and where, or raise FileError."""
        ...


ReadFile = Callable[[Path], Contents]
"""Opens one file, whatever its format is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A checkpoint of several files that was found in a folder.

    Args:
        path: What to open: the folder, or an index in it.
        files: The files that belong to it, and are no checkpoints of their own; None for everything below the folder.
    """

    path: Path
    files: frozenset[Path] | None = None

    def covers(self, path: Path) -> bool:
        """Return whether a file below the folder belongs to it."""
        return self.files is None or path in self.files


class FolderFormat(Protocol):
    """A kind of checkpoint that consists of several files."""

    def claims(self, folder: Path) -> list[Claim]:
        """List the checkpoints of this kind whose files lie in a folder; cheap where there are none."""
        ...

    def read(self, path: Path, read_file: ReadFile) -> Contents:
        """Read the checkpoint that a claim named."""
        ...
