"""Screen tensors where they are, and bring what is needed to the host in one transfer.

Every transfer waits for the device. Large tensors leave behind their largest magnitude, or their range, and a few
elements; small ones travel whole. All of it is packed into one vector of bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchmend.facts.dtypes import DType
from torchmend.facts.tensors import TensorRef
from torchmend.live.elements import integers, raw_of
from torchmend.measure.bits import Raw, raw_dtype

SMALL = 8192
"""Elements up to which a tensor travels whole: statistics, biases, counters."""

LOOK_AT = 16
"""Elements of a large matrix that travel, to see whether it may be constant."""

LARGEST_PACK = 256 << 20
"""Bytes that are packed for one transfer of large tensors; packing takes that much of the device's memory."""

Bytes = NDArray[np.uint8]


@dataclass(slots=True)
class Transfers:
    """Brings bytes to the host and counts how often."""

    count: int = 0

    def fetch(self, parts: Sequence[Tensor]) -> list[Bytes]:
        """Bring one-dimensional uint8 tensors of one device to the host, all at once."""
        self.count += 1
        lengths = [len(part) for part in parts]
        together = torch.cat(list(parts)).cpu().numpy()
        return np.split(together, np.cumsum(lengths)[:-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Screened:
    """What one transfer told.

    Args:
        small: Raw integers of the tensors that travelled whole.
        absmax: Of the other ones the largest magnitude (of parts, for complex); NaN or Inf if any element is.
        minimum: Of those for which a value below zero is damage, the smallest value.
        alike: Those whose first elements are all equal and not zero.
    """

    small: dict[TensorRef, Raw] = field(default_factory=dict)
    absmax: dict[TensorRef, float] = field(default_factory=dict)
    minimum: dict[TensorRef, float] = field(default_factory=dict)
    alike: set[TensorRef] = field(default_factory=set)


def screen(tensors: Mapping[TensorRef, Tensor], transfers: Transfers) -> Screened:
    """Screen tensors of one device.

    Args:
        tensors: As `detached` returns them; refs whose elements are not floats must be small to be looked at.
        transfers: One is made, whatever the tensors are.
    """
    result = Screened()
    small = [ref for ref in tensors if ref.numel <= SMALL]
    large = [ref for ref in tensors if ref.numel > SMALL and ref.element.is_floating]
    ranged = [ref for ref in large if ref.role.is_nonnegative]
    normed = [ref for ref in large if not ref.role.is_nonnegative]
    magnitudes = list(_magnitudes([(ref, as_floats(tensors[ref])) for ref in normed]))
    ranges = [(ref, torch.stack(torch.aminmax(as_floats(tensors[ref])))) for ref in ranged]
    parts = [
        *(as_bytes(tensors[ref]) for ref in small),
        *(_first_elements(tensors[ref]) for ref in large),
        *(as_bytes(values) for _, values in magnitudes),
        *(as_bytes(values) for _, values in ranges),
    ]
    if not parts:
        return result
    packed = iter(transfers.fetch(parts))
    result.small.update((ref, unpacked(next(packed), ref)) for ref in small)
    for ref in large:
        first = next(packed).reshape(-1, ref.element.itemsize)
        if first.any() and (first == first[0]).all():
            result.alike.add(ref)
    for refs, values in magnitudes:
        result.absmax.update(zip(refs, _numbers(next(packed), values), strict=True))
    for ref, values in ranges:
        low, high = _numbers(next(packed), values)
        result.minimum[ref], result.absmax[ref] = low, max(abs(low), abs(high))  # NaN is in both or in neither
    return result


def fetch_whole(tensors: Mapping[TensorRef, Tensor], transfers: Transfers) -> Iterator[dict[TensorRef, Raw]]:
    """Bring tensors of one device to the host, as many at a time as make one pack."""
    batch: list[TensorRef] = []
    size = 0
    for ref, tensor in tensors.items():
        nbytes = tensor.numel() * tensor.element_size()
        if batch and size + nbytes > LARGEST_PACK:
            yield _fetch_batch(batch, tensors, transfers)
            batch, size = [], 0
        batch.append(ref)
        size += nbytes
    if batch:
        yield _fetch_batch(batch, tensors, transfers)


def _fetch_batch(
    refs: list[TensorRef], tensors: Mapping[TensorRef, Tensor], transfers: Transfers
) -> dict[TensorRef, Raw]:
    packed = transfers.fetch([as_bytes(tensors[ref]) for ref in refs])
    return {ref: unpacked(each, ref) for ref, each in zip(refs, packed, strict=True)}


def as_bytes(tensor: Tensor) -> Tensor:
    """Return a tensor's bytes in row-major order, one-dimensional: a view where it is contiguous."""
    return integers(tensor).contiguous().reshape(-1).view(torch.uint8)


def unpacked(packed: Bytes, ref: TensorRef) -> Raw:
    """Turn bytes from `as_bytes` into raw integers in the tensor's shape."""
    shape = (*ref.shape, 2) if ref.element.component else ref.shape
    aligned = np.frombuffer(packed.tobytes(), dtype=raw_dtype(ref.element))
    return aligned.reshape(shape)


def as_floats(tensor: Tensor) -> Tensor:
    """Return real elements of a type that devices can reduce; every conversion is exact."""
    if tensor.is_complex():
        return torch.view_as_real(tensor.resolve_conj().resolve_neg())
    return tensor.to(torch.float32) if tensor.element_size() == 1 else tensor


def _magnitudes(tensors: Sequence[tuple[TensorRef, Tensor]]) -> Iterator[tuple[list[TensorRef], Tensor]]:
    """Yield largest magnitudes, one kernel launch a type; unlike a 2-norm a maximum never overflows."""
    by_type: dict[torch.dtype, list[tuple[TensorRef, Tensor]]] = {}
    for ref, tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append((ref, tensor))
    for group in by_type.values():
        norms = torch._foreach_norm([tensor for _, tensor in group], float("inf"))
        yield [ref for ref, _ in group], torch.stack(list(norms))


def _first_elements(tensor: Tensor) -> Tensor:
    """Return the bytes of the first few elements in row-major order, whatever the strides; little is copied."""
    inner, axis = 1, tensor.ndim
    while axis and inner < LOOK_AT:
        axis -= 1
        inner *= tensor.shape[axis]
    rows = -(-LOOK_AT * tensor.shape[axis] // inner)
    first = tensor[(0,) * axis][:rows].reshape(-1)
    return as_bytes(first[:LOOK_AT])


def _numbers(packed: Bytes, like: Tensor) -> list[float]:
    """Turn the bytes of a vector of reductions into numbers."""
    numbers = torch.frombuffer(bytearray(packed.tobytes()), dtype=like.dtype)
    return [float(value) for value in numbers.to(torch.float64)]


def host_raw(tensor: Tensor, dtype: DType, transfers: Transfers) -> Raw:
    """Bring one tensor to the host as raw integers in its shape."""
    transfers.count += 1
    return raw_of(tensor.cpu(), dtype)
