"""Fetch from disk what a scan will want next, so that reading and computing overlap."""

import mmap
import os
from collections.abc import Sequence
from typing import Self

import numpy as np

from torchmend.formats.mapped import MappedFile
from torchmend.measure.chunks import address_of

READ_BYTES = 1 << 18
"""Bytes read at once, over and over into the same buffer: what counts is that the system has them then."""

STEP = 4 << 20
"""Of so many bytes the last is looked for in memory."""


class ReadAhead:
    """Reads the bytes behind addresses in mapped files, once it sees that they are not in memory.

    Where a file is cold it is read from there to its end in one stream, like any program that reads does: the
    system then fetches further ahead, and in larger units, than on advice or on page faults. Where the system does not
    tell what is in memory, it is only advised.

    Args:
        files: Which are open.
    """

    def __init__(self, files: Sequence[MappedFile]) -> None:
        self._files = [(_start(file), file) for file in files if isinstance(file.buffer, mmap.mmap)]
        self._opened: MappedFile | None = None
        self._descriptor = -1
        self._cold = False
        self._scratch = memoryview(bytearray(READ_BYTES))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(self, address: int, nbytes: int) -> None:
        """Return when the bytes that one of the files is mapped to are in memory; pass over other addresses."""
        for start, file in self._files:
            if start <= address < start + file.size:
                self._fetch(file, address - start, min(address - start + nbytes, file.size))
                return

    def _fetch(self, file: MappedFile, start: int, end: int) -> None:
        self._open(file)
        if self._descriptor < 0:
            return
        try:
            self._cold = self._cold or not _in_memory(self._descriptor, start, end)
        except (AttributeError, OSError):  # no such call on this system, or not for this file system
            _advise(file, start, end)
            return
        while self._cold and start < end:
            count = os.preadv(self._descriptor, [self._scratch[: end - start]], start)
            if count == 0:  # cut since it was mapped; the scan finds out
                return
            start += count

    def _open(self, file: MappedFile) -> None:
        """Have a descriptor of a file, -1 if it is gone; a scan goes through files one after the other."""
        if self._opened is file:
            return
        self._close()
        self._opened = file
        try:
            self._descriptor = os.open(file.path, os.O_RDONLY)
        except OSError:
            return
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._opened, self._descriptor, self._cold = None, -1, False


def _start(file: MappedFile) -> int:
    return address_of(np.frombuffer(file.buffer, np.uint8))


def _in_memory(descriptor: int, start: int, end: int) -> bool:
    """Return whether a stretch of a file can be had without waiting for the disk, judging by a few of its bytes.

    Raises:
        AttributeError: The system has no call that tells.
        OSError: It has, but not for this file system.
    """
    try:
        for at in (*range(start + STEP - 1, end - 1, STEP), end - 1):
            os.preadv(descriptor, [bytearray(1)], at, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    return True


def _advise(file: MappedFile, start: int, end: int) -> None:
    if hasattr(mmap, "MADV_WILLNEED") and isinstance(file.buffer, mmap.mmap):
        page = start - start % mmap.PAGESIZE
        file.buffer.madvise(mmap.MADV_WILLNEED, page, end - page)
