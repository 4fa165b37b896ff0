"""Which bytes of a file change: a list of ranges that stays short whatever the pattern of the damage."""

import numpy as np
from numpy.typing import NDArray

MOST_RANGES = 1 << 13
"""The most ranges that are kept. Beyond it near ranges merge, and the undo record keeps the bytes between them too."""

_AT_ONCE = 1 << 16
"""The most ranges that are merged in one go: this bounds the memory."""

Offsets = NDArray[np.int64]


class Journal:
    """Collects byte ranges; memory is bounded, and every byte that was added stays covered.

    Args:
        most: The most ranges to keep, two at least.
    """

    def __init__(self, most: int = MOST_RANGES) -> None:
        self.most = most
        self._pending: list[tuple[Offsets, Offsets]] = []
        self._waiting = 0

    def add(self, starts: Offsets, length: int) -> None:
        """Add ranges of one length.

        Args:
            starts: Offsets in the file, int64, in any order and with repetitions.
            length: Bytes of each.
        """
        for at in range(0, len(starts), _AT_ONCE):
            piece = starts[at : at + _AT_ONCE]
            self._pending.append(_merged(piece, piece + length))
            self._waiting += len(self._pending[-1][0])
            if self._waiting > 2 * self.most:
                self._settle()

    def ranges(self) -> Offsets:
        """Return offset and length of every range: int64 of shape [n, 2], sorted, without overlaps."""
        starts, ends = self._settle()
        return np.stack((starts, ends - starts), axis=1)

    def pairs(self) -> list[tuple[int, int]]:
        """Return offset and length of every range as plain numbers."""
        return [(int(offset), int(length)) for offset, length in self.ranges()]

    def _settle(self) -> tuple[Offsets, Offsets]:
        empty = np.empty(0, dtype=np.int64)
        starts, ends = (np.concatenate([empty, *parts]) for parts in zip((empty, empty), *self._pending, strict=True))
        starts, ends = _merged(starts, ends)
        if len(starts) > self.most:
            # keep the widest half of the gaps that may stay: the next merge is then as far away as it can be
            gaps = starts[1:] - ends[:-1]
            widest = len(gaps) - self.most // 2
            starts, ends = _merged(starts, ends, gap=int(np.partition(gaps, widest)[widest]))
        self._pending, self._waiting = [(starts, ends)], len(starts)
        return starts, ends


def _merged(starts: Offsets, ends: Offsets, gap: int = 0) -> tuple[Offsets, Offsets]:
    """Sort ranges, and join those that overlap, touch or are at most `gap` bytes apart."""
    if not len(starts):
        return starts, ends
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    apart = starts[1:] - ends[:-1] > gap
    return starts[np.r_[True, apart]], ends[np.r_[apart, True]]
