"""The two passes over a piece of a tensor: a fast exact screen, and a full count of what the screen flagged."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from torchmend.facts.dtypes import DType, Kind, NonFinite
from torchmend.facts.findings import Measure
from torchmend.measure.bits import Raw, component, damaged, decode
from torchmend.measure.chunks import distinct, flat_chunks


@dataclass(frozen=True, slots=True)
class Screen:
    """What the fast pass found: the largest magnitude pattern, and whether anything is not finite."""

    magnitude: int = 0
    flagged: bool = False

    def merge(self, other: "Screen") -> "Screen":
        """Combine the screens of two pieces."""
        return Screen(max(self.magnitude, other.magnitude), self.flagged or other.flagged)


def screen(raw: Raw, dtype: DType) -> Screen:
    """Find the largest magnitude and whether any element is Inf or NaN.

    Sign-and-magnitude floats order like integers: over all elements with the sign bit clear the signed
    maximum is the largest magnitude, over those with it set the unsigned maximum is. Two reductions without
    a temporary array, exact for every bit pattern.

    Args:
        raw: Any shape, strides and byte order (complex: a last axis of length two).
        dtype: A float or complex type.
    """
    part = component(dtype)
    result = Screen()
    view, _ = distinct(raw)
    for chunk in flat_chunks(view):
        result = result.merge(_screen_chunk(chunk, part))
    return result


def _screen_chunk(chunk: Raw, dtype: DType) -> Screen:
    highest = int(chunk.max())
    if dtype.nonfinite is NonFinite.ALL_ONES:
        return Screen(highest if highest < 0xFF else 0, highest == 0xFF)
    signed = chunk.view(np.dtype(f"i{dtype.itemsize}"))
    sign = 1 << (8 * dtype.itemsize - 1)
    magnitude = max(int(signed.max()), highest - sign, 0)
    if dtype.nonfinite is NonFinite.NEGATIVE_ZERO:
        return Screen(magnitude, int(signed.min()) == -0x80)
    return Screen(magnitude, magnitude >= dtype.threshold)


def screened_measure(result: Screen, dtype: DType, numel: int) -> Measure:
    """Turn a screen that flagged nothing into a measure."""
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
    parts = values.reshape(-1, 2) if dtype.kind is Kind.COMPLEX else values[:, None]
    nan = np.isnan(parts).any(axis=1)
    pos_inf = (parts == np.inf).any(axis=1) & ~nan
    neg_inf = (parts == -np.inf).any(axis=1) & ~nan & ~pos_inf
    finite = values[np.isfinite(values)].astype(np.float64)
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (None, None)
    return Measure(
        numel=len(parts),
        nan=int(nan.sum()),
        pos_inf=int(pos_inf.sum()),
        neg_inf=int(neg_inf.sum()),
        absmax=max(abs(low), abs(high)) if low is not None and high is not None else 0.0,
        negative=int((parts < 0).any(axis=1).sum()),
        zeros=int((parts == 0).all(axis=1).sum()),
        minimum=low,
        maximum=high,
    )


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
