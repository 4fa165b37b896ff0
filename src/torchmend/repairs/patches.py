"""An edit -> the elements that it changes and their new bits, a bounded piece at a time."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from torchmend.facts.dtypes import DType, Kind
from torchmend.facts.plans import CopyDamaged, Edit, FillAll, FillDamaged, Values
from torchmend.facts.sources import TensorSource
from torchmend.facts.tensors import TensorRef
from torchmend.measure.bits import Raw, component, damaged, decode_any, encode
from torchmend.measure.chunks import flat_chunks

Patch = tuple[NDArray[np.int64], Raw]
"""Flat row-major indices of elements, and their new raw integers in native order ([n], or [n, 2] for complex)."""


def patches(edit: Edit, source: TensorSource, donors: Mapping[str, TensorSource]) -> Iterator[Patch]:
    """Yield what an edit writes.

    Args:
        edit: Of one of the source's tensors.
        source: As it was when the plan was made.
        donors: The sources that copies name.
    """
    change, ref = edit.change, edit.ref
    match change:
        case Values():
            yield np.array(change.index, dtype=np.int64), encode(np.array(change.values), ref.element)
        case FillDamaged():
            for where in (ref, *change.also):
                for index in _damaged_indices(source, where):
                    yield index, _filled(change.value, ref.element, len(index))
        case FillAll():
            start = 0
            raw, whole = _once(source.raw(ref), ref)
            for chunk in flat_chunks(raw):
                count = len(chunk) // (2 if ref.element.kind is Kind.COMPLEX else 1)
                yield whole(np.arange(start, start + count)), _filled(change.value, ref.element, count)
                start += count
        case CopyDamaged():
            giver = donors[change.source] if change.source else source
            elements = giver.raw(change.ref)
            for index in _damaged_indices(source, ref):
                taken = elements[np.unravel_index(index, ref.shape)] if ref.shape else elements[None][index]
                native = taken.astype(taken.dtype.newbyteorder("="))
                yield index, _converted(native, change.ref.element, ref.element)


def _filled(value: float, dtype: DType, count: int) -> Raw:
    part = component(dtype)
    if part.kind is Kind.FLOAT:
        bits = encode(np.array([value]), part)[0]
    else:
        bits = np.array([int(value)]).astype(f"i{part.itemsize}").view(f"u{part.itemsize}")[0]
    return np.full((count, 2) if dtype.kind is Kind.COMPLEX else count, bits)


def _converted(raw: Raw, given: DType, wanted: DType) -> Raw:
    return raw if given == wanted else encode(decode_any(raw, given), wanted)


def _damaged_indices(source: TensorSource, ref: TensorRef) -> Iterator[NDArray[np.int64]]:
    start = 0
    is_complex = ref.element.kind is Kind.COMPLEX
    raw, whole = _once(source.raw(ref), ref)
    for chunk in flat_chunks(raw):
        elements = chunk.reshape(-1, 2) if is_complex else chunk
        bad = damaged(elements, ref.element, nonnegative=ref.role.is_nonnegative)
        if bad.any():
            yield whole(start + np.flatnonzero(bad))
        start += len(elements)


def _once(raw: Raw, ref: TensorRef) -> tuple[Raw, Callable[[NDArray[np.int64]], NDArray[np.int64]]]:
    """Leave out what an expanded tensor repeats, however often it claims to: each element in memory stands there once.

    Returns:
        The elements, and what turns their flat indices into those of the tensor.
    """
    expanded = raw.size > 0 and any(s == 0 and n > 1 for n, s in zip(raw.shape, raw.strides, strict=True))
    if not expanded:
        return raw, lambda index: index
    axes = len(ref.shape)
    view = raw[tuple(slice(0, 1) if raw.strides[at] == 0 else slice(None) for at in range(axes))]
    return view, lambda index: np.ravel_multi_index(np.unravel_index(index, view.shape[:axes]), ref.shape)
