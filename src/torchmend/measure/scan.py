"""Measure many tensors in one go: pieces of large ones and bundles of small ones, spread over threads.

numpy releases the interpreter lock inside its reductions, and zlib in its sums, so plain threads scale.
"""

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from torchmend.facts.dtypes import DType, Kind
from torchmend.facts.findings import Measure
from torchmend.measure.bits import Raw
from torchmend.measure.chunks import address_of
from torchmend.measure.sums import Bytes, Sum, sum_of
from torchmend.measure.tally import Screen, bad_indices, count, merge, repeats, screen, screened_measure
from torchmend.measure.workers import this_machine, workers

T = TypeVar("T")

PIECE_BYTES = 16 << 20
"""Bytes of work handed to a thread at once: long against the cost of handing over, short against a scan."""

BUNDLE = 256
"""The most small pieces handed to a thread at once."""

GAP_BYTES = 1 << 20
"""Pieces that lie no further apart are read ahead in one go."""

CHANNEL_LIMIT = 1 << 20
"""The longest statistic of which the damaged channels are listed."""

Progress = Callable[[int], None]
"""Called with the number of bytes that have been looked at since the last call."""

Ahead = Callable[[int, int], None]
"""Called with an address and a number of bytes that will be looked at soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One tensor to measure.

    Args:
        key: What to file the result under.
        raw: Its raw integers (see `measure.bits`), over memory that outlives the scan.
        dtype: Its element type, a float or complex one.
        full: Whether to count everything even if the screen finds nothing.
        full_if_repeating: Whether to do so if the first elements are all equal, and not zero.
        channels: Whether to list the damaged indices.
        nonnegative: Whether a value below zero is damage.
        dull_below: Below this an upper bound on the largest magnitude will do; 0 asks for the magnitude itself.
    """

    key: Hashable
    raw: Raw
    dtype: DType
    full: bool = False
    full_if_repeating: bool = False
    channels: bool = False
    nonnegative: bool = False
    dull_below: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Bytes of which the CRC-32 is wanted.

    Args:
        key: What to file the result under.
        data: The bytes, over memory that outlives the scan.
    """

    key: Hashable
    data: Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """What a scan found.

    Args:
        measures: One a request. Elements of an expanded tensor count as often as they are repeated.
        sums: One CRC-32 a stretch.
    """

    measures: dict[Hashable, Measure]
    sums: dict[Hashable, int]


def measure(
    requests: Sequence[Request], *, threads: int | None = None, progress: Progress | None = None
) -> dict[Hashable, Measure]:
    """Measure every request, and nothing else: see `scan`."""
    return scan(requests, threads=threads, progress=progress).measures


def scan(
    requests: Sequence[Request],
    stretches: Sequence[Stretch] = (),
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    ahead: Ahead | None = None,
) -> Scanned:
    """Measure requests and sum stretches in one walk over memory; it needs a few chunks whatever the sizes.

    Bytes that are both measured and summed are read from disk once: the walk goes by address, a piece at a time.

    Args:
        requests: Keys must differ.
        stretches: Keys must differ.
        threads: How many to use; by default as many as cores are free.
        progress: Called in this thread as work completes.
        ahead: Called in this thread as work is handed out, well before it is done.
    """
    crew = _Crew(threads or workers(this_machine()), progress or (lambda _: None), ahead or (lambda *_: None))
    screens: dict[Hashable, Screen] = {request.key: Screen() for request in requests}
    sums: dict[Hashable, Sum] = {stretch.key: Sum() for stretch in stretches}
    walk = heapq.merge(_measured(requests), _summed(stretches), key=lambda piece: piece.address)
    for key, result in crew.run(_look, walk):
        if isinstance(result, Screen):
            screens[key] = screens[key].merge(result)
        else:
            sums[key] = sums[key].followed_by(result)
    counted = [request for request in requests if _needs_counting(request, screens[request.key])]
    counts: dict[Hashable, list[Measure]] = {request.key: [] for request in counted}
    for key, part in replace(crew, progress=lambda _: None).run(_count, _measured(counted)):
        counts[key].append(part)
    measures = {
        request.key: _with_channels(request, merge(counts[request.key]))
        if request.key in counts
        else screened_measure(screens[request.key], request.dtype, _numel(request))
        for request in requests
    }
    return Scanned(measures=measures, sums={key: found.crc for key, found in sums.items()})


def _needs_counting(request: Request, screened: Screen) -> bool:
    return request.full or screened.flagged or screened.repeats or (request.nonnegative and screened.signed)


def _numel(request: Request) -> int:
    return request.raw.size // (2 if request.dtype.kind is Kind.COMPLEX else 1)


def _with_channels(request: Request, measured: Measure) -> Measure:
    measured = replace(measured, numel=_numel(request))
    if not request.channels or measured.numel > CHANNEL_LIMIT:
        return measured
    bad = bad_indices(request.raw, request.dtype, nonnegative=request.nonnegative)
    return replace(measured, bad_channels=tuple(bad.tolist()))


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a tensor, or of a stretch (which has no element type)."""

    key: Hashable
    raw: Raw
    dtype: DType | None
    address: int
    look: bool = False
    """Whether to look at its first elements."""
    dull_below: float = 0.0

    @property
    def end(self) -> int:
        """The address behind its last byte."""
        raw = self.raw
        last: int = sum((n - 1) * stride for n, stride in zip(raw.shape, raw.strides, strict=True))
        return self.address + last + raw.itemsize


def _measured(requests: Iterable[Request]) -> Iterator[_Piece]:
    """Cut tensors into pieces, by address."""
    placed = sorted(((address_of(r.raw), r) for r in requests if r.raw.size), key=lambda pair: pair[0])
    for address, request in placed:
        raw, dull = request.raw, 0.0 if request.nonnegative else request.dull_below
        if raw.flags.c_contiguous and raw.nbytes > PIECE_BYTES:
            rows = raw.reshape(-1, 2) if request.dtype.kind is Kind.COMPLEX else raw.reshape(-1)
            size = rows.strides[0]
            step = PIECE_BYTES // size
            for start in range(0, len(rows), step):
                look = start == 0 and request.full_if_repeating
                yield _Piece(request.key, rows[start : start + step], request.dtype, address + start * size, look, dull)
        else:
            yield _Piece(request.key, raw, request.dtype, address, request.full_if_repeating, dull)


def _summed(stretches: Iterable[Stretch]) -> Iterator[_Piece]:
    """Cut stretches into pieces, by address."""
    for address, stretch in sorted(((address_of(s.data), s) for s in stretches), key=lambda pair: pair[0]):
        for start in range(0, len(stretch.data), PIECE_BYTES):
            yield _Piece(stretch.key, stretch.data[start : start + PIECE_BYTES], None, address + start)


def _look(piece: _Piece) -> Screen | Sum:
    if piece.dtype is None:
        return sum_of(piece.raw)
    found = screen(piece.raw, piece.dtype, dull_below=piece.dull_below)
    return replace(found, repeats=True) if piece.look and repeats(piece.raw) else found


def _count(piece: _Piece) -> Measure:
    assert piece.dtype is not None, "a stretch has no elements to count"
    return count(piece.raw, piece.dtype)


def _bundles(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    bundle: list[_Piece] = []
    size = 0
    for piece in pieces:
        bundle.append(piece)
        size += piece.raw.nbytes
        if size >= PIECE_BYTES or len(bundle) >= BUNDLE:
            yield bundle
            bundle, size = [], 0
    if bundle:
        yield bundle


def _spans(bundle: Sequence[_Piece]) -> Iterator[tuple[int, int]]:
    """Yield the addresses and lengths of the memory that a bundle visits; what lies near is joined."""
    start, end = bundle[0].address, bundle[0].end
    for piece in bundle[1:]:
        if piece.address > end + GAP_BYTES:
            yield start, end - start
            start, end = piece.address, piece.end
        end = max(end, piece.end)
    yield start, end - start


@dataclass(frozen=True, slots=True)
class _Crew:
    """Threads, and whom to tell what they do."""

    threads: int
    progress: Progress
    ahead: Ahead

    def run(self, work: Callable[[_Piece], T], pieces: Iterable[_Piece]) -> Iterator[tuple[Hashable, T]]:
        """Do the work on every piece, a few bundles in flight at a time, and yield its results in order."""
        with ThreadPoolExecutor(self.threads) as pool:
            waiting: deque[tuple[list[_Piece], Future[list[T]]]] = deque()
            try:
                for bundle in _bundles(pieces):
                    for address, nbytes in _spans(bundle):
                        self.ahead(address, nbytes)
                    waiting.append((bundle, pool.submit(lambda some: [work(piece) for piece in some], bundle)))
                    if len(waiting) > 2 * self.threads:
                        yield from self._finish(waiting)
                while waiting:
                    yield from self._finish(waiting)
            finally:
                for _, future in waiting:
                    future.cancel()

    def _finish(self, waiting: deque[tuple[list[_Piece], Future[list[T]]]]) -> list[tuple[Hashable, T]]:
        bundle, future = waiting.popleft()
        results = future.result()
        self.progress(sum(piece.raw.nbytes for piece in bundle))
        return [(piece.key, result) for piece, result in zip(bundle, results, strict=True)]
