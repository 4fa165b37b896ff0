"""A file's bytes, mapped read-only, with its identity at the time it was opened."""

import mmap
import os
import stat
from pathlib import Path
from typing import BinaryIO, Self

from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError, SourceChangedError

Buffer = bytes | mmap.mmap

LARGEST_READ = 256 << 20
"""The largest file that is read into memory where it cannot be mapped."""


class MappedFile:
    """A read-only memory map of a whole file.

    Args:
        path: The file.

    Raises:
        FileError: It is missing, empty, not a regular file, or may not be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.buffer: Buffer
        try:
            mode = path.stat().st_mode
            if stat.S_ISDIR(mode):
                raise FileError(Code.UNREADABLE, "This is a folder, not a file.", "Name a checkpoint file inside it.")
            if not stat.S_ISREG(mode):
                raise FileError(Code.UNREADABLE, "This is not a regular file.", "Name a checkpoint file.")
            with path.open("rb") as file:
                self._identity = _identity(os.fstat(file.fileno()))
                self.size = os.fstat(file.fileno()).st_size
                if self.size == 0:
                    raise FileError(
                        Code.NOT_A_CHECKPOINT,
                        "The file is empty (0 bytes).",
                        "The save was probably interrupted before it wrote anything; use an earlier checkpoint.",
                    )
                self.buffer = _mapped(file, self.size)
        except FileNotFoundError:
            raise FileError(
                Code.UNREADABLE,
                "No such file.",
                "Check the path; relative paths start at the current folder.",
            ) from None
        except OSError as error:
            raise FileError(
                Code.UNREADABLE,
                f"The file cannot be read: {error.strerror}.",
                "Check its permissions and the disk.",
            ) from None

    @property
    def mapped(self) -> Self:
        """The file itself: sections of it answer with the file that they lie in."""
        return self

    def read(self, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`, fewer at the end of the file."""
        return self.buffer[start : start + length]

    def release(self) -> None:
        """Let go of the pages that have been read: they stay in the system's cache, but are no memory of ours."""
        if isinstance(self.buffer, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self.buffer.madvise(mmap.MADV_DONTNEED)

    def check_unchanged(self) -> None:
        """Raise SourceChangedError if the file at this path is no longer the one that was opened."""
        try:
            now = _identity(self.path.stat())
        except OSError:
            now = None
        if now != self._identity:
            raise SourceChangedError(
                f"{self.path} changed while it was being read. "
                "Wait until whatever writes it has finished, then try again."
            )

    def close(self) -> None:
        """Unmap the file, unless arrays still look into it; those keep it mapped until they are gone."""
        try:
            if isinstance(self.buffer, mmap.mmap):
                self.buffer.close()
        except BufferError:
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _mapped(file: BinaryIO, size: int) -> Buffer:
    """Map the file; where the file system shares no maps, map privately, and failing that read it if it is small.

    Some network and FUSE file systems refuse shared maps, others all of them; a 32-bit process has no room for
    large ones.
    """
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError, OverflowError) as refused:
        if hasattr(mmap, "MAP_PRIVATE"):
            try:
                return mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
            except (OSError, ValueError, OverflowError):
                pass
        if size <= LARGEST_READ and len(data := file.read(size)) == size:
            return data
        raise FileError(
            Code.UNREADABLE,
            f"The file system of this file cannot map it into memory: {refused}.",
            "Copy the file to a local disk and check the copy.",
        ) from None


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns
