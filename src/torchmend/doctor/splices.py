"""Where a repaired file differs from its original: stretches, which may have another length than before."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

Range = tuple[int, int]
"""Offset and length in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Splice:
    """A stretch of the repaired file that stands in place of a stretch of the original.

    Args:
        offset: Where it starts in the repaired file.
        length: Its bytes there.
        old: How many bytes of the original it replaces.
    """

    offset: int
    length: int
    old: int

    @property
    def end(self) -> int:
        """Where it ends in the repaired file."""
        return self.offset + self.length


def composed(patched: Iterable[Range], rewritten: Sequence[Splice]) -> tuple[Splice, ...]:
    """Combine stretches that were patched in place with those that were written anew before.

    Args:
        patched: In the repaired file; sorted, without overlaps.
        rewritten: Sorted, without overlaps.

    Returns:
        Sorted splices without overlaps that cover both.
    """
    same = (Splice(offset=offset, length=length, old=length) for offset, length in patched)
    found: list[Splice] = []
    for each in sorted((*same, *rewritten), key=lambda splice: splice.offset):
        if found and each.offset < found[-1].end:
            last = found.pop()
            end = max(last.end, each.end)
            shrunk = (last.length - last.old) + (each.length - each.old)
            found.append(Splice(offset=last.offset, length=end - last.offset, old=end - last.offset - shrunk))
        else:
            found.append(each)
    return tuple(found)


def old_ranges(splices: Iterable[Splice]) -> Iterator[Range]:
    """Yield where in the original each splice's bytes stood."""
    longer = 0
    for splice in splices:
        yield splice.offset - longer, splice.old
        longer += splice.length - splice.old
