"""The two passes over a piece of a tensor: a fast exact screen, and a full count of what the screen flagged."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from torchmend.facts.dtypes import DType, Kind, NonFinite
from torchmend.facts.findings import Measure
from torchmend.measure.bits import Raw, component, damaged, decode, nonfinite
from torchmend.measure.chunks import distinct, flat_chunks

LOOK_AT = 16
"""How many elements are looked at to see whether a tensor may be constant."""

_LARGEST = np.finfo(np.float32).max
_SMALLEST_NORMAL = np.finfo(np.float32).smallest_normal

_LEAST_ENERGY = np.float32(1e-20)
"""A smaller sum of squares may have lost some of them below the range of float32."""

_MARGIN = np.float32(1.01)
"""More than what rounding can take from the root of a sum of squares."""


@dataclass(frozen=True, slots=True)
class Screen:
    """What the fast pass found.

    Args:
        magnitude: The largest magnitude pattern, if nothing is flagged.
        flagged: Whether any element is Inf or NaN.
        signed: Whether any element other than negative zero has its sign set, if nothing is flagged.
        repeats: Whether the first elements were looked at and are all equal, and not zero.
    """

    magnitude: int = 0
    flagged: bool = False
    signed: bool = False
    repeats: bool = False

    def merge(self, other: "Screen") -> "Screen":
        """Combine the screens of two pieces."""
        return Screen(
            max(self.magnitude, other.magnitude),
            self.flagged or other.flagged,
            self.signed or other.signed,
            self.repeats or other.repeats,
        )


def screen(raw: Raw, dtype: DType, *, dull_below: float = 0.0) -> Screen:
    """Find the largest magnitude and whether any element is Inf or NaN, with two reductions and no temporary array.

    Once an element is found that is not finite the rest may be left out, so of a flagged piece only the flag means
    anything.

    Args:
        raw: Any shape, strides and byte order (complex: a last axis of length two).
        dtype: A float or complex type.
        dull_below: Of float32 pieces that are finite and whose magnitudes stay below this, an upper bound will do, and
            the sign is not told; one reduction is enough then.
    """
    part = component(dtype)
    view, _ = distinct(raw)
    if part.name == "float32" and (result := _screen_values(flat_chunks(view), dull_below)) is not None:
        return result
    return _screen_patterns(flat_chunks(view), part)


def _screen_values(chunks: Iterator[Raw], dull_below: float) -> Screen | None:
    """Screen float32 by comparing values; None if they are too small for that.

    Fetching from memory, numpy's maximum of 4-byte integers is slower than that of any other type, and `fmax` is the
    fastest. It passes over NaN; `minimum`, on bytes that are in the cache by then, does not. Processors may be set to
    take values below the normal range for zero, so those are left to the integers.

    The sum of squares is faster still. Inf and NaN show in it, it bounds every magnitude from above, and it says
    nothing more: it will do where that bound is of no interest to anybody.
    """
    high = low = bound = np.float32(0)
    most = (dull_below / _MARGIN) ** 2
    with np.errstate(invalid="ignore", over="ignore"):  # signalling NaN; squares beyond the range
        for chunk in chunks:
            values = chunk.view(np.float32)
            if most and _LEAST_ENERGY < (energy := np.dot(values, values)) < most:
                bound = max(bound, np.sqrt(energy) * _MARGIN)
                continue
            top, bottom = np.fmax.reduce(values), np.minimum.reduce(values)
            if not (top <= _LARGEST and bottom >= -_LARGEST):  # NaN compares false
                return Screen(flagged=True)
            high, low = max(high, top), min(low, bottom)
    magnitude = max(high, -low, bound)
    if magnitude < _SMALLEST_NORMAL:
        return None
    return Screen(int(magnitude.view(np.uint32)), signed=bool(low < 0))


def repeats(raw: Raw) -> bool:
    """Return whether the first elements are all equal, and not zero: only counting tells whether the others are."""
    first = raw.flat[:LOOK_AT]
    return bool(first[0] != 0 and (first == first[0]).all())


def _screen_patterns(chunks: Iterator[Raw], dtype: DType) -> Screen:
    """Screen any type by comparing bits.

    Sign-and-magnitude floats order like integers: over all elements with the sign bit clear the signed
    maximum is the largest magnitude, over those with it set the unsigned maximum is.
    """
    kind = np.dtype(f"i{dtype.itemsize}")
    unsigned = signed = lowest = 0
    for chunk in chunks:
        unsigned = max(unsigned, int(np.maximum.reduce(chunk)))
        if dtype.nonfinite is NonFinite.ALL_ONES:
            continue
        signed = max(signed, int(np.maximum.reduce(chunk.view(kind))))
        if dtype.nonfinite is NonFinite.NEGATIVE_ZERO:
            lowest = min(lowest, int(np.minimum.reduce(chunk.view(kind))))
    if dtype.nonfinite is NonFinite.ALL_ONES:
        return Screen(unsigned if unsigned < 0xFF else 0, flagged=unsigned == 0xFF)
    sign = 1 << (8 * dtype.itemsize - 1)
    magnitude = max(signed, unsigned - sign)
    flagged = lowest == -0x80 if dtype.nonfinite is NonFinite.NEGATIVE_ZERO else magnitude >= dtype.threshold
    return Screen(magnitude, flagged=flagged, signed=unsigned > sign)


def screened_measure(result: Screen, dtype: DType, numel: int) -> Measure:
    """Turn a screen that flagged nothing into a measure."""
    if numel == 0:
        return Measure(numel=0)
    part = component(dtype)
    raw = np.array([result.magnitude], dtype=f"u{part.itemsize}")
    return Measure(numel=numel, absmax=float(decode(raw, part)[0]))


def count(raw: Raw, dtype: DType) -> Measure:
    """Count NaN, infinities, negatives and zeros, and find the finite range.

    Args:
        raw: Any shape, strides and byte order (complex: a last axis of length two, whose elements are
            counted in pairs; the range is that of the parts).
        dtype: A float or complex type.
    """
    view, repeats = distinct(raw, pairs=dtype.kind is Kind.COMPLEX)
    pieces = [_count_chunk(chunk, dtype) for chunk in flat_chunks(view)]
    merged = merge(pieces)
    return replace(
        merged,
        numel=merged.numel * repeats,
        nan=merged.nan * repeats,
        pos_inf=merged.pos_inf * repeats,
        neg_inf=merged.neg_inf * repeats,
        negative=(merged.negative or 0) * repeats,
        zeros=(merged.zeros or 0) * repeats,
    )


def _count_chunk(chunk: Raw, dtype: DType) -> Measure:
    values = decode(chunk, component(dtype))
    if values.dtype == np.float16:  # numpy computes with half floats one by one
        values = values.astype(np.float32)
    if dtype.kind is Kind.COMPLEX:
        return _count_pairs(values.reshape(-1, 2))
    bad = nonfinite(chunk, dtype)
    finite, rest = (values[~bad], values[bad]) if bad.any() else (values, values[:0])
    neg_inf = int(np.count_nonzero(rest == -np.inf))
    return Measure(
        numel=len(values),
        nan=int(np.count_nonzero(np.isnan(rest))),
        pos_inf=int(np.count_nonzero(rest == np.inf)),
        neg_inf=neg_inf,
        negative=int(np.count_nonzero(finite < 0)) + neg_inf,
        zeros=len(finite) - int(np.count_nonzero(finite)),
        **_range(finite),
    )


def _count_pairs(parts: NDArray[np.floating]) -> Measure:
    """Count complex elements, shape [n, 2]: NaN if either part is, else infinite if either part is."""
    nan = np.isnan(parts).any(axis=1)
    pos_inf = (parts == np.inf).any(axis=1) & ~nan
    neg_inf = (parts == -np.inf).any(axis=1) & ~nan & ~pos_inf
    return Measure(
        numel=len(parts),
        nan=int(np.count_nonzero(nan)),
        pos_inf=int(np.count_nonzero(pos_inf)),
        neg_inf=int(np.count_nonzero(neg_inf)),
        negative=int(np.count_nonzero((parts < 0).any(axis=1))),
        zeros=int(np.count_nonzero((parts == 0).all(axis=1))),
        **_range(parts[np.isfinite(parts)]),
    )


class _Range(TypedDict):
    absmax: float
    minimum: float | None
    maximum: float | None


def _range(finite: NDArray[np.floating]) -> _Range:
    if not finite.size:
        return {"absmax": 0.0, "minimum": None, "maximum": None}
    low, high = float(finite.min()), float(finite.max())
    return {"absmax": max(abs(low), abs(high)), "minimum": low, "maximum": high}


def merge(pieces: list[Measure]) -> Measure:
    """Combine the counts of disjoint pieces of one tensor; the order does not matter."""
    lows = [p.minimum for p in pieces if p.minimum is not None]
    highs = [p.maximum for p in pieces if p.maximum is not None]
    return Measure(
        numel=sum(p.numel for p in pieces),
        nan=sum(p.nan for p in pieces),
        pos_inf=sum(p.pos_inf for p in pieces),
        neg_inf=sum(p.neg_inf for p in pieces),
        absmax=max((p.absmax for p in pieces), default=0.0),
        negative=sum(p.negative or 0 for p in pieces),
        zeros=sum(p.zeros or 0 for p in pieces),
        minimum=min(lows, default=None),
        maximum=max(highs, default=None),
    )


def bad_indices(raw: Raw, dtype: DType, *, nonnegative: bool) -> NDArray[np.intp]:
    """Return the flat row-major indices of the damaged elements of a small tensor."""
    native = raw.astype(raw.dtype.newbyteorder("="))
    return np.flatnonzero(damaged(native, dtype, nonnegative=nonnegative))
