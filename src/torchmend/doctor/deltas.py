"""How far the elements of two tensors lie apart: in bounded chunks and in several threads."""

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from torchmend.facts.dtypes import DType, Kind
from torchmend.measure.bits import Raw, component, damaged, decode_any
from torchmend.measure.chunks import CHUNK_BYTES
from torchmend.measure.scan import PIECE_BYTES
from torchmend.measure.workers import available_cores
from torchmend.reports.comparison import Delta

T = TypeVar("T")

Piece = tuple[Hashable, Raw, Raw, DType, bool]
"""A key, the raw integers of A and of B, their element type, whether a value below zero is damage."""

BUNDLE = 256
"""The most small pieces handed to a thread at once."""


def distinct_pair(a: Raw, b: Raw) -> tuple[Raw, Raw, int]:
    """Drop axes along which both are expanded, however long they claim to be; say how often elements repeat."""
    once = tuple(
        slice(0, 1) if n > 1 and x == 0 and y == 0 else slice(None)
        for n, x, y in zip(a.shape, a.strides, b.strides, strict=True)
    )
    small = a[once]
    return small, b[once], a.size // max(small.size, 1)


def chunk_pairs(a: Raw, b: Raw, limit: int = 0) -> Iterator[tuple[Raw, Raw]]:
    """Yield the elements of two arrays of one shape in row-major order, as flat native pieces of equal length.

    Args:
        a: Any strides and byte order.
        b: Of the same shape and item size.
        limit: The most elements in a piece, even; by default as many as make `CHUNK_BYTES`.
    """
    limit = limit or CHUNK_BYTES // a.itemsize
    native = a.dtype.newbyteorder("=")
    if a.size == 0:
        return
    if a.flags.c_contiguous and b.flags.c_contiguous:
        x, y = a.reshape(-1), b.reshape(-1)
        for start in range(0, x.size, limit):
            part = slice(start, start + limit)
            yield x[part].astype(native, copy=False), y[part].astype(native, copy=False)
        return
    inner = a.size // a.shape[0]
    if inner > limit:
        for row, other in zip(a, b, strict=True):
            yield from chunk_pairs(row, other, limit)
        return
    rows = max(1, limit // inner)
    for start in range(0, a.shape[0], rows):
        part = slice(start, start + rows)
        yield a[part].astype(native, order="C").reshape(-1), b[part].astype(native, order="C").reshape(-1)


def delta_of(a: Raw, b: Raw, dtype: DType, *, nonnegative: bool = False) -> Delta:
    """Measure how far two arrays of raw integers lie apart.

    Args:
        a: Any shape, strides and byte order (complex: a last axis of length two).
        b: Of the same shape.
        dtype: The element type of both. Packed elements are only counted.
        nonnegative: Whether a value below zero is damage.
    """
    pieces = (_delta_chunk(x, y, dtype, nonnegative) for x, y in chunk_pairs(a, b))
    return sum(pieces, start=Delta())


def _delta_chunk(a: Raw, b: Raw, dtype: DType, nonnegative: bool) -> Delta:
    parts = 2 if dtype.kind is Kind.COMPLEX else 1
    numel = len(a) // parts
    if dtype.kind is Kind.PACKED:
        return Delta(numel=numel)
    part = component(dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        x, y = decode_any(a, part), decode_any(b, part)
        moved = y - x
        squared_before, squared_delta = float(x @ x), float(moved @ moved)
    sound = math.isfinite(squared_before) and math.isfinite(squared_delta)
    if sound and not (nonnegative and min(x.min(), y.min()) < 0):
        return Delta(
            numel=numel,
            squared_before=squared_before,
            squared_delta=squared_delta,
            largest=float(np.abs(moved, out=moved).max()),
        )
    pairs = (-1, 2) if parts == 2 else (-1,)
    bad_a = damaged(a.reshape(pairs), dtype, nonnegative=nonnegative)
    bad_b = damaged(b.reshape(pairs), dtype, nonnegative=nonnegative)
    kept = np.repeat(~(bad_a | bad_b), parts)
    x, moved = x[kept], moved[kept]
    with np.errstate(over="ignore"):  # only float64 can: the relative change is then Inf
        return Delta(
            numel=numel,
            broke=int(np.count_nonzero(bad_b & ~bad_a)),
            healed=int(np.count_nonzero(bad_a & ~bad_b)),
            squared_before=float(x @ x),
            squared_delta=float(moved @ moved),
            largest=float(np.abs(moved).max(initial=0.0)),
        )


def are_equal(piece: Piece) -> bool:
    """Return whether the bits of a piece are the same in both."""
    return all(np.array_equal(x, y) for x, y in chunk_pairs(piece[1], piece[2]))


def piece_delta(piece: Piece) -> Delta:
    """Measure one piece."""
    return delta_of(*piece[1:4], nonnegative=piece[4])


def _split(piece: Piece) -> Iterator[Piece]:
    """Cut a large pair into parts that threads can share."""
    key, a, b, dtype, nonnegative = piece
    if a.nbytes <= PIECE_BYTES or not (a.flags.c_contiguous and b.flags.c_contiguous):
        yield piece
        return
    x, y = a.reshape(-1), b.reshape(-1)
    step = PIECE_BYTES // a.itemsize
    for start in range(0, x.size, step):
        yield key, x[start : start + step], y[start : start + step], dtype, nonnegative


def run(work: Callable[[Piece], T], pieces: Iterable[Piece]) -> Iterator[tuple[Hashable, T]]:
    """Do the work on every piece in threads, a few bundles in flight at a time; results come in order."""
    workers = available_cores()
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[list[tuple[Hashable, T]]]] = deque()
        for bundle in _bundles(pieces):
            waiting.append(pool.submit(lambda some: [(piece[0], work(piece)) for piece in some], bundle))
            if len(waiting) > 2 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _bundles(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    bundle: list[Piece] = []
    size = 0
    for piece in pieces:
        for part in _split(piece):
            bundle.append(part)
            size += part[1].nbytes
            if size >= PIECE_BYTES or len(bundle) >= BUNDLE:
                yield bundle
                bundle, size = [], 0
    if bundle:
        yield bundle
