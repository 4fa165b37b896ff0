"""Bits to numbers and back: raw unsigned integers <-> float64, for every float type of `DTYPES`.

"Raw" arrays hold one unsigned integer of the element's width for each element (for each of the two parts of
a complex element, in a last axis of length two).
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from torchmend.facts.dtypes import DTYPES, DType, Kind, NonFinite

Raw = NDArray[np.unsignedinteger]
"""Unsigned integers of 8, 16, 32 or 64 bits that carry the elements' bits, in native or swapped order."""

_NATIVE_FLOATS = {"float64": np.float64, "float32": np.float32, "float16": np.float16}


def component(dtype: DType) -> DType:
    """Return the float type of one part: the type itself unless it is complex."""
    return DTYPES[dtype.component] if dtype.component else dtype


def raw_dtype(dtype: DType, *, little_endian: bool = True) -> np.dtype[np.unsignedinteger]:
    """Return the numpy type of the raw integers of one part of an element."""
    return np.dtype(f"{'<' if little_endian else '>'}u{component(dtype).itemsize}")


@cache
def float8_values(name: str) -> NDArray[np.float64]:
    """Return the values of the 256 patterns of a float8 type, shape [256].

    Source: the OCP 8-bit Floating Point Specification (e5m2, e4m3), the OCP Microscaling Formats
    Specification (e8m0), and for the fnuz variants their definition: bias one higher, 0x80 is the only NaN.
    """
    pattern = np.arange(256)
    if name == "float8_e8m0fnu":
        values: NDArray[np.float64] = np.ldexp(1.0, pattern - 127)
        values[0xFF] = np.nan
        return values
    exponent_bits, mantissa_bits = (5, 2) if "e5m2" in name else (4, 3)
    bias = 2 ** (exponent_bits - 1) - (0 if name.endswith("fnuz") else 1)
    exponent = (pattern & 0x7F) >> mantissa_bits
    mantissa = pattern & (2**mantissa_bits - 1)
    significand = mantissa / 2**mantissa_bits + (exponent > 0)
    values = np.ldexp(significand, np.maximum(exponent, 1) - bias)
    values = np.where(pattern & 0x80, -values, values)
    if name.endswith("fnuz"):
        values[0x80] = np.nan
    elif name == "float8_e5m2":
        values[[0x7C, 0xFC]] = np.inf, -np.inf
        values[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
    else:
        values[[0x7F, 0xFF]] = np.nan
    return values


def decode(raw: Raw, dtype: DType) -> NDArray[np.floating]:
    """Turn raw integers of a float type into floats of the same shape that hold them exactly.

    Args:
        raw: Native byte order.
        dtype: A float type, not a complex one.

    Returns:
        float16, float32 or float64; Inf and NaN stay what they are.
    """
    if (native := _NATIVE_FLOATS.get(dtype.name)) is not None:
        return raw.view(native)
    if dtype.name == "bfloat16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return float8_values(dtype.name)[raw]


def decode_any(raw: Raw, dtype: DType) -> NDArray[np.float64]:
    """Turn raw integers of a real float or integer type into float64 of the same shape."""
    if dtype.kind is Kind.FLOAT:
        with np.errstate(invalid="ignore"):  # signalling NaNs become quiet ones
            return decode(raw, dtype).astype(np.float64)
    if dtype.name.startswith("int"):
        return raw.view(np.dtype(f"i{dtype.itemsize}")).astype(np.float64)
    return raw.astype(np.float64)


def encode(values: NDArray[np.float64], dtype: DType) -> Raw:
    """Round finite float64 values to a float type and return the raw integers, in native order.

    Rounds to nearest; a magnitude beyond the type's range becomes its largest finite value, so the result is
    always finite.
    """
    largest = largest_finite(dtype)
    clipped = np.clip(values, -largest, largest)
    width = np.dtype(f"u{dtype.itemsize}")
    if (native := _NATIVE_FLOATS.get(dtype.name)) is not None:
        return clipped.astype(native).view(width)
    if dtype.name == "bfloat16":
        bits = clipped.astype(np.float32).view(np.uint32).astype(np.uint64)
        nearest_even = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        sign = (bits >> 16) & 0x8000
        return np.asarray(np.minimum(nearest_even & 0x7FFF, 0x7F7F) | sign, dtype=width)
    table = float8_values(dtype.name)
    patterns = np.flatnonzero(np.isfinite(table))
    patterns = patterns[np.argsort(table[patterns], kind="stable")]
    ordered = table[patterns]
    above = np.clip(np.searchsorted(ordered, clipped), 1, len(ordered) - 1)
    nearer_below = clipped - ordered[above - 1] <= ordered[above] - clipped
    return np.asarray(patterns[np.where(nearer_below, above - 1, above)], dtype=width)


@cache
def largest_finite(dtype: DType) -> float:
    """Return the largest finite value of a float type."""
    if dtype.itemsize == 1:
        return float(np.nanmax(np.where(np.isinf(t := float8_values(dtype.name)), np.nan, t)))
    raw = np.array([dtype.threshold - 1], dtype=f"u{dtype.itemsize}")
    return float(decode(raw, dtype)[0])


def nonfinite(raw: Raw, dtype: DType) -> NDArray[np.bool_]:
    """Return which elements of native-order raw integers are Inf or NaN, in the same shape."""
    match dtype.nonfinite:
        case NonFinite.FROM_THRESHOLD:
            magnitude = raw & raw.dtype.type((1 << (8 * dtype.itemsize - 1)) - 1)
            return np.asarray(magnitude >= raw.dtype.type(dtype.threshold))
        case NonFinite.NEGATIVE_ZERO:
            return np.asarray(raw == 0x80)
        case NonFinite.ALL_ONES:
            return np.asarray(raw == 0xFF)
        case None:
            return np.zeros(raw.shape, dtype=np.bool_)


def damaged(raw: Raw, dtype: DType, *, nonnegative: bool) -> NDArray[np.bool_]:
    """Return which elements are not finite or, where that is damage, below zero.

    Args:
        raw: Native order; for a complex type with a last axis of length two, which is reduced away.
        dtype: The element type. Of other kinds than floats nothing is damaged.
        nonnegative: Whether values below zero are damage; in a complex element, in either part.
    """
    part = component(dtype)
    bad = nonfinite(raw, part)
    if nonnegative and dtype.is_floating:
        bad |= decode(raw, part) < 0
    return np.asarray(bad.any(axis=-1)) if dtype.kind is Kind.COMPLEX else bad
