"""Measure many tensors in one go: pieces of large ones and bundles of small ones, spread over threads.

numpy releases the interpreter lock inside its reductions, so plain threads scale.
"""

import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from torchmend.facts.dtypes import DType, Kind
from torchmend.facts.findings import Measure
from torchmend.measure.bits import Raw
from torchmend.measure.tally import Screen, bad_indices, count, merge, screen, screened_measure

T = TypeVar("T")

PIECE_BYTES = 16 << 20
"""Bytes of work handed to a thread at once: long against the cost of handing over, short against a scan."""

CHANNEL_LIMIT = 1 << 20
"""The longest statistic of which the damaged channels are listed."""

Progress = Callable[[int], None]
"""Called with the number of bytes that have been looked at since the last call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One tensor to measure.

    Args:
        key: What to file the result under.
        raw: Its raw integers (see `measure.bits`), over memory that outlives the scan.
        dtype: Its element type, a float or complex one.
        full: Whether to count everything even if the screen finds nothing.
        channels: Whether to list the damaged indices.
        nonnegative: Whether a value below zero is damage.
    """

    key: Hashable
    raw: Raw
    dtype: DType
    full: bool = False
    channels: bool = False
    nonnegative: bool = False


def available_cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity call
        return os.cpu_count() or 1


def measure(
    requests: Sequence[Request], *, threads: int | None = None, progress: Progress | None = None
) -> dict[Hashable, Measure]:
    """Measure every request; memory stays at a few chunks whatever the tensors' sizes.

    Args:
        requests: Keys must differ.
        threads: How many to use; by default one a core.
        progress: Called in this thread as work completes.

    Returns:
        One measure a key. Elements of an expanded tensor count as often as they are repeated.
    """
    tell = progress or (lambda _: None)
    workers = threads or available_cores()
    screens: dict[Hashable, Screen] = {r.key: Screen() for r in requests}
    for key, result in _run(_screen_bundle, requests, workers, tell):
        screens[key] = screens[key].merge(result)

    measures: dict[Hashable, Measure] = {}
    counted: list[Request] = []
    for request in requests:
        screened = screens[request.key]
        if request.full or screened.flagged or (request.nonnegative and screened.signed):
            counted.append(request)
        else:
            numel = _numel(request)
            measures[request.key] = screened_measure(screened, request.dtype, numel)
    counts: dict[Hashable, list[Measure]] = {request.key: [] for request in counted}
    for key, part in _run(_count_bundle, counted, workers, lambda _: None):
        counts[key].append(part)
    for request in counted:
        measures[request.key] = _with_channels(request, merge(counts[request.key]))
    return measures


def _numel(request: Request) -> int:
    return request.raw.size // (2 if request.dtype.kind is Kind.COMPLEX else 1)


def _with_channels(request: Request, measured: Measure) -> Measure:
    measured = replace(measured, numel=_numel(request))
    if not request.channels or measured.numel > CHANNEL_LIMIT:
        return measured
    bad = bad_indices(request.raw, request.dtype, nonnegative=request.nonnegative)
    return replace(measured, bad_channels=tuple(bad.tolist()))


_Piece = tuple[Hashable, Raw, DType]


def _pieces(request: Request) -> Iterator[_Piece]:
    raw = request.raw
    if raw.flags.c_contiguous and raw.nbytes > PIECE_BYTES:
        rows = raw.reshape(-1, 2) if request.dtype.kind is Kind.COMPLEX else raw.reshape(-1)
        step = PIECE_BYTES // (raw.itemsize * (2 if rows.ndim == 2 else 1))
        for start in range(0, len(rows), step):
            yield request.key, rows[start : start + step], request.dtype
    elif raw.size:
        yield request.key, raw, request.dtype


def _bundles(requests: Iterable[Request]) -> Iterator[list[_Piece]]:
    bundle: list[_Piece] = []
    size = 0
    for request in requests:
        for piece in _pieces(request):
            bundle.append(piece)
            size += piece[1].nbytes
            if size >= PIECE_BYTES or len(bundle) >= 256:
                yield bundle
                bundle, size = [], 0
    if bundle:
        yield bundle


def _screen_bundle(bundle: list[_Piece]) -> list[tuple[Hashable, Screen]]:
    return [(key, screen(raw, dtype)) for key, raw, dtype in bundle]


def _count_bundle(bundle: list[_Piece]) -> list[tuple[Hashable, Measure]]:
    return [(key, count(raw, dtype)) for key, raw, dtype in bundle]


def _run(
    work: Callable[[list[_Piece]], list[tuple[Hashable, T]]],
    requests: Iterable[Request],
    workers: int,
    tell: Progress,
) -> Iterator[tuple[Hashable, T]]:
    """Do the work on every bundle, a few in flight at a time, and yield its results in order."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[int, Future[list[tuple[Hashable, T]]]]] = deque()
        try:
            for bundle in _bundles(requests):
                waiting.append((sum(raw.nbytes for _, raw, _ in bundle), pool.submit(work, bundle)))
                if len(waiting) > 2 * workers:
                    yield from _finish(waiting, tell)
            while waiting:
                yield from _finish(waiting, tell)
        finally:
            for _, future in waiting:
                future.cancel()


def _finish(waiting: deque[tuple[int, Future[list[tuple[Hashable, T]]]]], tell: Progress) -> list[tuple[Hashable, T]]:
    nbytes, future = waiting.popleft()
    results = future.result()
    tell(nbytes)
    return results
