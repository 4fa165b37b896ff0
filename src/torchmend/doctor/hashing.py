"""SHA-256 of files, in threads beside other work."""

import hashlib
from concurrent.futures import Executor, Future
from pathlib import Path
from threading import Condition
from typing import Self

from torchmend.formats.mapped import Buffer

_PIECE = 1 << 20
_KEPT_EVERY = 1 << 25
"""How many bytes lie between the states of the source's hash that are kept."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class TwinHash:
    """Hashes a file and its patched copy in threads; what lies before the first change is hashed once for both.

    Hashing starts at once, and stops early when the context is left.

    Args:
        source: The file's bytes.
        pool: Where to work; its tasks must start in the order in which they were given.
    """

    def __init__(self, source: Buffer, pool: Executor) -> None:
        self._source = source
        self._states = [(0, hashlib.sha256())]
        self._passed = 0
        self._stopped = False
        self._progress = Condition()
        self._pool = pool
        self._of_source = pool.submit(self._hash_source)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True

    def hash_copy(self, copy: Path, first_change: int) -> "Future[str]":
        """Start to hash the copy, which is complete.

        Args:
            copy: Equal to the source before the first change.
            first_change: The offset of the first byte that may differ.
        """
        return self._pool.submit(self._hash_copy, copy, first_change)

    def source_digest(self) -> str:
        """Wait for the source's SHA-256."""
        return self._of_source.result()

    def _hash_source(self) -> str:
        state = hashlib.sha256()
        try:
            with memoryview(self._source) as view:
                for start in range(0, len(view), _PIECE):
                    if self._stopped:
                        break
                    if start % _KEPT_EVERY == 0:
                        self._advance(start, (start, state.copy()))
                    with view[start : start + _PIECE] as piece:
                        state.update(piece)
        finally:
            self._advance(len(self._source))  # whatever happened, nobody is left waiting
        return state.hexdigest()

    def _advance(self, passed: int, kept: "tuple[int, hashlib._Hash] | None" = None) -> None:
        with self._progress:
            self._passed = passed
            if kept:
                self._states.append(kept)
            self._progress.notify_all()

    def _hash_copy(self, copy: Path, first_change: int) -> str:
        with self._progress:
            end = min(first_change // _KEPT_EVERY * _KEPT_EVERY, len(self._source))
            self._progress.wait_for(lambda: self._passed >= end)
            start, state = max((kept for kept in self._states if kept[0] <= first_change), key=lambda kept: kept[0])
            state = state.copy()
        piece = bytearray(_PIECE)
        with copy.open("rb", buffering=0) as file, memoryview(piece) as view:
            file.seek(start)
            while not self._stopped and (count := file.readinto(piece)):
                state.update(view[:count])
        return state.hexdigest()
