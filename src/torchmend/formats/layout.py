"""Whether the pieces of a file lie side by side: overlaps, and bytes that nothing refers to."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torchmend.facts.codes import Code
from torchmend.formats.contents import Oddity, StoredTensor

WORTH_TELLING = 1 << 16
"""Unreferenced bytes below this are padding or small change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A named stretch of the file."""

    name: str
    start: int
    end: int


def overlaps(pieces: Iterable[Piece]) -> Iterator[Oddity]:
    """Report the first pair of pieces that share bytes, and how many pairs there are."""
    ordered = sorted((p for p in pieces if p.end > p.start), key=lambda p: (p.start, p.end))
    clashes: list[tuple[Piece, Piece]] = []
    furthest: Piece | None = None
    for piece in ordered:
        if furthest is not None and piece.start < furthest.end:
            clashes.append((furthest, piece))
        if furthest is None or piece.end > furthest.end:
            furthest = piece
    if clashes:
        first, second = clashes[0]
        shared = min(first.end, second.end) - second.start
        more = f", and {len(clashes) - 1:,} more pairs" if len(clashes) > 1 else ""
        detail = f"{first.name} and {second.name} share {shared:,} bytes at byte {second.start:,}{more}"
        yield Oddity(code=Code.OVERLAPPING, detail=detail)


def unreferenced(storages: Iterable[Piece], tensors: Iterable[StoredTensor], gaps: int) -> Iterator[Oddity]:
    """Report storages that no tensor uses, parts of storages that none reaches, and bytes between the pieces.

    Args:
        storages: Where tensors' bytes may lie.
        tensors: What the file describes.
        gaps: Bytes that belong to no piece at all.
    """
    used: dict[int, tuple[int, int]] = {}
    for tensor in tensors:
        if tensor.extent is None or tensor.packed or tensor.numel == 0:
            continue
        size = tensor.dtype.itemsize
        last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
        low, high = used.get(tensor.extent.start, (tensor.extent.nbytes, 0))
        used[tensor.extent.start] = (min(low, tensor.offset * size), max(high, (last + 1) * size))
    idle = [(p.name, p.end - p.start) for p in storages if p.end > p.start and p.start not in used]
    partly = [
        (p.name, p.end - p.start - (min(high, p.end - p.start) - low))
        for p in storages
        if p.start in used
        for low, high in [used[p.start]]
    ]
    partly = [(name, unused) for name, unused in partly if unused > 0]
    total = sum(unused for _, unused in (*idle, *partly)) + gaps
    if idle or total >= WORTH_TELLING:
        yield Oddity(code=Code.UNREFERENCED, detail=f"{total:,} bytes: {_where(idle, partly, gaps)}")


def _where(idle: list[tuple[str, int]], partly: list[tuple[str, int]], gaps: int) -> str:
    parts = []
    for label, found in (("no tensor uses", idle), ("tensors use only a part of", partly)):
        if found:
            name, _ = max(found, key=lambda each: each[1])
            more = f" and {len(found) - 1:,} more" if len(found) > 1 else ""
            parts.append(f"{label} {name}{more}")
    if gaps:
        parts.append(f"{gaps:,} lie between the pieces")
    return "; ".join(parts)


def duplicates(names: Iterable[str]) -> Iterator[Oddity]:
    """Report names that occur more than once."""
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        more = f" and {len(twice) - 1:,} more" if len(twice) > 1 else ""
        yield Oddity(code=Code.DUPLICATE_NAMES, detail=f"{twice[0]}{more}")


def wrong_checksum(name: str, found: int, stored: int) -> Oddity:
    """Report a record whose bytes do not have the CRC-32 that is stored for them."""
    return Oddity(code=Code.WRONG_CHECKSUM, detail=f"{name}: {found:08x}, where the file says {stored:08x}")


def pieces_of(tensors: Iterable[StoredTensor]) -> list[Piece]:
    """Return where tensors lie that have their bytes for themselves."""
    return [
        Piece(name=tensor.name, start=extent.start, end=extent.start + extent.nbytes)
        for tensor in tensors
        if (extent := tensor.extent) is not None
    ]
