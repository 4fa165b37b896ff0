"""Hypothesis strategies and tables that the tests share."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from torchmend.facts.dtypes import DTYPES, DType, Kind
from torchmend.measure.bits import Raw, component, raw_dtype

quick = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
"""Settings of every property test here: few examples, the same ones each time, no clock."""

FLOATS = [dtype for dtype in DTYPES.values() if dtype.kind is Kind.FLOAT]
COMPLEX = [dtype for dtype in DTYPES.values() if dtype.kind is Kind.COMPLEX]
FLOATING = FLOATS + COMPLEX
NAMES = [dtype.name for dtype in FLOATING]
FLOAT8 = [dtype.name for dtype in FLOATS if dtype.itemsize == 1]

float_dtypes = st.sampled_from(FLOATS)
floating_dtypes = st.sampled_from(FLOATING)


def as_torch(raw: Raw, dtype: DType) -> torch.Tensor:
    """Look at raw integers through torch's element type (parts of complex elements: real, last axis 2)."""
    native = np.ascontiguousarray(raw, dtype=raw.dtype.newbyteorder("=")).reshape(raw.shape)
    return torch.from_numpy(native).view(getattr(torch, component(dtype).name))


def every_pattern(dtype: DType) -> Raw:
    """Return all patterns of a type of one or two bytes."""
    return np.arange(1 << (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")


def special_patterns(dtype: DType) -> list[int]:
    """Return zeros, ones, extremes, infinities and NaNs of a type, of both signs, and their neighbours."""
    part = component(dtype)
    top = (1 << (8 * part.itemsize)) - 1
    sign = 1 << (8 * part.itemsize - 1)
    around = {0, 1, 2, sign - 2, sign - 1, part.threshold - 1, part.threshold, part.threshold + 1}
    around = {pattern & (sign - 1) for pattern in around}
    return sorted({*around, *(pattern | sign for pattern in around), top})


def patterns(dtype: DType, *, finite: bool = False) -> st.SearchStrategy[int]:
    """Any bit pattern of one part, special ones often; with `finite`, neither Inf nor NaN."""
    width = 8 * component(dtype).itemsize
    either = st.sampled_from(special_patterns(dtype)) | st.integers(0, (1 << width) - 1)
    if not finite:
        return either
    kind = f"u{component(dtype).itemsize}"
    return either.filter(lambda p: bool(torch.isfinite(as_torch(np.array([p], kind), dtype).double())))


@st.composite
def raws(
    draw: st.DrawFn,
    dtype: DType,
    *,
    min_dims: int = 0,
    max_dims: int = 3,
    max_side: int = 5,
    min_side: int = 0,
    finite: bool = False,
) -> Raw:
    """Contiguous raw integers of any shape; complex types get their last axis of two."""
    shape = draw(hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side))
    if dtype.kind is Kind.COMPLEX:
        shape = (*shape, 2)
    return draw(hnp.arrays(raw_dtype(dtype), shape, elements=patterns(dtype, finite=finite)))


@dataclass(frozen=True, slots=True)
class Laid:
    """A view of any layout, and a plain copy of what it shows."""

    view: Raw
    copy: Raw


LAYOUTS = ("plain", "transposed", "sliced", "expanded", "overlapping", "big-endian", "zero-dim", "empty")


@st.composite
def layouts(draw: st.DrawFn, dtype: DType, *, finite: bool = False) -> Laid:
    """Raw integers laid out as tensors are: transposed, sliced, expanded, overlapping, big-endian, empty."""
    kind = draw(st.sampled_from(LAYOUTS))
    dims = 0 if kind == "zero-dim" else draw(st.integers(1, 3))
    raw = draw(raws(dtype, min_dims=dims, max_dims=dims, min_side=0 if kind == "empty" else 1, finite=finite))
    view = lay_out(raw, dtype, kind)
    if kind == "transposed":
        axes = draw(st.permutations(range(dims)))
        view = raw.transpose([*axes, *range(dims, raw.ndim)])
    return Laid(view, np.array(view, dtype=raw_dtype(dtype), order="C"))


def lay_out(raw: Raw, dtype: DType, kind: str) -> Raw:
    """Return a view of contiguous raw integers in one of `LAYOUTS`."""
    inner = (slice(None),) if dtype.kind is Kind.COMPLEX else ()
    axes = raw.ndim - len(inner)
    match kind:
        case "transposed":
            return raw.transpose([*reversed(range(axes)), *range(axes, raw.ndim)])
        case "sliced":
            return raw[(*(slice(None, None, 2) for _ in range(axes)), *inner)]
        case "expanded":
            return np.broadcast_to(raw[None, ..., None, *inner], (3, *raw.shape[:axes], 2, *raw.shape[axes:]))
        case "overlapping":
            flat = raw.reshape(-1, *raw.shape[axes:])
            width = min(3, len(flat))
            windows = np.lib.stride_tricks.sliding_window_view(flat, width, axis=0)
            return np.moveaxis(windows, -1, 1)
        case "big-endian":
            return raw.astype(raw.dtype.newbyteorder(">"))
        case "empty":
            return raw[:0]
        case _:
            return raw


def flatten_all(arrays: Iterable[Raw]) -> list[int]:
    """Join pieces into one list of plain integers."""
    return [int(value) for array in arrays for value in array.reshape(-1)]
