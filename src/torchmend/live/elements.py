"""torch tensors <-> raw integers: without a copy on the CPU, in place, and unseen by autograd."""

from collections.abc import Hashable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parameter import Parameter, UninitializedBuffer, UninitializedParameter

from torchmend.facts.dtypes import DTYPES, DType, Kind
from torchmend.measure.bits import Raw, raw_dtype

DTYPE_NAMES = {dtype: name for name in DTYPES if isinstance(dtype := getattr(torch, name, None), torch.dtype)}
"""torchmend's name of each of torch's element types that it knows."""

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SIMPLE = (Tensor, Parameter)


def why_unreadable(tensor: Tensor) -> str:
    """Say why a tensor's elements cannot be looked at; empty when they can."""
    if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
        return "a lazy parameter: it has no shape before the first batch"
    if tensor.is_meta:
        return "a meta tensor: it has no data"
    if tensor.layout is not torch.strided:
        return f"a tensor of layout {tensor.layout}, which torchmend does not look into"
    if tensor.dtype not in DTYPE_NAMES:
        return f"a tensor of type {tensor.dtype}, which torchmend does not know"
    if tensor.is_nested:
        return "a nested tensor, which torchmend does not look into"
    if not _is_plain(tensor):
        return f"a {type(tensor).__name__}, a kind of tensor that torchmend does not look into"
    return ""


def element_of(tensor: Tensor) -> DType:
    """Return the element type of a tensor that is not unreadable."""
    return DTYPES[DTYPE_NAMES[tensor.dtype]]


def local_part(tensor: Tensor) -> Tensor:
    """Return the tensor itself, or of a distributed one the part that this process holds."""
    if type(tensor) in _SIMPLE:
        return tensor
    local = getattr(tensor, "_local_tensor", None)
    return local if isinstance(local, Tensor) else tensor


def _is_plain(tensor: Tensor) -> bool:
    """Return whether the tensor has memory of its own: a subclass that computes its elements has none."""
    kind = type(tensor)
    plain = (Tensor.__torch_dispatch__, torch._C._disabled_torch_dispatch_impl)
    return kind in _SIMPLE or kind.__torch_dispatch__ in plain


def detached(tensor: Tensor) -> Tensor:
    """Return a plain tensor over the same memory, without history and with a version counter of its own.

    A write to it is not seen by autograd: what a forward pass saved for backward stays valid.
    """
    if type(tensor) in _SIMPLE:
        return tensor.data
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.data.as_subclass(Tensor)


def identity(tensor: Tensor, dtype: str) -> Hashable:
    """Return what is equal for names of the very same elements."""
    if tensor.numel() == 0:  # it has no address
        return (tuple(tensor.shape), dtype)
    device = tensor.device
    return (device.type, device.index, tensor.data_ptr(), tensor.stride(), tuple(tensor.shape), dtype)


def memory(tensor: Tensor) -> Hashable:
    """Return what is equal for tensors that may share elements: their storage."""
    return (tensor.device.type, tensor.device.index, tensor.untyped_storage().data_ptr())


def integers(tensor: Tensor) -> Tensor:
    """Return a tensor's bits as a view of integers; complex elements get a last axis of two.

    Args:
        tensor: As `detached` returns it, on any device, with any strides. A lazily conjugated or negated one is copied.
    """
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj().resolve_neg())
    elif tensor.is_neg():
        tensor = tensor.resolve_neg()
    return tensor.view(_INTEGERS[tensor.element_size()])


def raw_of(tensor: Tensor, dtype: DType) -> Raw:
    """Return the raw integers of a CPU tensor in its shape: a view of its memory.

    Args:
        tensor: As `detached` returns it.
        dtype: Its element type.
    """
    return integers(tensor).numpy().view(raw_dtype(dtype))


def write(tensor: Tensor, index: NDArray[np.int64], raw: Raw, dtype: DType) -> None:
    """Overwrite elements in place, on the tensor's device.

    Args:
        tensor: As `detached` returns it.
        index: Flat row-major indices, shape [n].
        raw: New raw integers in native order, shape [n], or [n, 2] for complex.
        dtype: The tensor's element type.
    """
    signed = torch.from_numpy(np.ascontiguousarray(raw).view(np.dtype(f"i{raw.itemsize}")))
    with torch.inference_mode(tensor.is_inference()):
        if tensor.is_conj() or tensor.is_neg():
            _write_lazy(tensor, index, signed)
            return
        target = integers(tensor)
        new = signed.view(target.dtype).to(target.device)
        shape = target.shape[:-1] if dtype.kind is Kind.COMPLEX else target.shape
        if not shape:
            target.copy_(new.reshape(target.shape))
            return
        places = (torch.from_numpy(each).to(target.device) for each in np.unravel_index(index, tuple(shape)))
        target.index_put_(tuple(places), new)


def _write_lazy(tensor: Tensor, index: NDArray[np.int64], signed: Tensor) -> None:
    """Write to a tensor whose memory holds the conjugates, or the negatives, of its elements."""
    if tensor.is_complex():
        new = torch.view_as_complex(signed.view(torch.empty(0, dtype=tensor.dtype).real.dtype))
    else:
        new = signed.view(tensor.dtype)
    places = tuple(torch.from_numpy(each).to(tensor.device) for each in np.unravel_index(index, tuple(tensor.shape)))
    tensor.index_put_(places, new.to(tensor.device))
