"""Walk arrays of any strides in bounded pieces, without ever copying more than one piece."""

from collections.abc import Iterator

import numpy as np

from torchmend.measure.bits import Raw

CHUNK_BYTES = 1 << 20
"""Bytes of one piece: every piece is read twice, so it should fit a core's share of the caches, and be long against the
cost of handing the interpreter lock to another thread."""


def distinct(raw: Raw, *, pairs: bool = False) -> tuple[Raw, int]:
    """Return a view of the elements that differ in memory, and how often each of them is repeated.

    Axes of stride 0 (expanded tensors) shrink to length 1; the others are put in memory order.

    Args:
        raw: Any shape and strides.
        pairs: Whether the last axis holds the two parts of complex elements, and so stays last.
    """
    axes = raw.ndim - pairs
    expanded = [raw.strides[i] == 0 and raw.shape[i] > 1 for i in range(axes)]
    view = raw[tuple(slice(0, 1) if one else slice(None) for one in expanded)] if axes else raw
    order = sorted(range(axes), key=lambda i: -view.strides[i])
    return view.transpose([*order, *range(axes, raw.ndim)]), raw.size // max(view.size, 1)


def flat_chunks(raw: Raw, limit: int | None = None) -> Iterator[Raw]:
    """Yield the elements in row-major order as one-dimensional arrays in native byte order.

    Args:
        raw: Any shape and strides; elements of the pieces are views where memory order allows it.
        limit: The most elements in a piece; by default as many as make `CHUNK_BYTES`.
    """
    limit = limit or CHUNK_BYTES // raw.itemsize
    native = raw.dtype.newbyteorder("=")
    if raw.size == 0:
        return
    if raw.flags.c_contiguous:
        flat = raw.reshape(-1)
        for start in range(0, flat.size, limit):
            yield _aligned(flat[start : start + limit]).astype(native, copy=False)
        return
    inner = raw.size // raw.shape[0]
    if inner > limit:
        for row in raw:
            yield from flat_chunks(row, limit)
        return
    rows = max(1, limit // inner)
    for start in range(0, raw.shape[0], rows):
        yield raw[start : start + rows].astype(native, order="C").reshape(-1)


def _aligned(flat: Raw) -> Raw:
    """Return elements at addresses that are multiples of their size: numpy moves others through a small buffer."""
    return flat if flat.flags.aligned else flat.view(np.uint8).copy().view(flat.dtype)


def address_of(array: Raw) -> int:
    """Return where in memory an array's first element is."""
    address: int = array.__array_interface__["data"][0]
    return address
