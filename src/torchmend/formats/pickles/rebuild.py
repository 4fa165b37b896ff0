"""Calls by which pickles rebuild tensors -> descriptions of those tensors. Nothing is rebuilt."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torchmend.facts.dtypes import DTYPES, DType
from torchmend.formats.pickles import arrays
from torchmend.formats.pickles.records import Call, Global, Persistent
from torchmend.formats.pickles.specs import MalformedError, NotNumbersError, StorageSpec, TensorSpec, sizes

_UTILS = "torch._utils."
_PLAIN = tuple(_UTILS + name for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"))
STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexDouble": "complex128",
    "ComplexFloat": "complex64",
    "QInt8": "qint8",
    "QUInt8": "quint8",
    "QInt32": "qint32",
    "QUInt4x2": "quint4x2",
    "QUInt2x4": "quint2x4",
}
"""What stands before `Storage` in the names of typed storages, and the element types."""
_DTYPE_ALIASES = {"double": "float64", "float": "float32", "half": "float16", "chalf": "complex32"}


def tensors_of(value: Any) -> list[TensorSpec] | None:
    """Describe the tensors that a call, or a reference to a storage, stands for.

    Returns:
        Usually one description; several for sparse tensors; None if the value is no tensor.

    Raises:
        MalformedError: It names a function that rebuilds tensors, with arguments that this does not take.
    """
    rebuild = _REBUILDERS.get(_called_name(value))
    try:
        if isinstance(value, Persistent):
            return [_storage_tensor(value)]
        return None if rebuild is None else rebuild(value)
    except NotNumbersError:
        return None
    except (TypeError, ValueError, IndexError, KeyError, AttributeError, RecursionError) as error:
        raise MalformedError(f"{_called_name(value) or 'a storage'} with arguments that it does not take") from error


def _called_name(value: Any) -> str:
    return value.func.dotted if isinstance(value, Call) and isinstance(value.func, Global) else ""


def wrapped_parts(value: Any) -> dict[str, Any] | None:
    """Return the inner tensors of a wrapper subclass (DTensor and its like) by attribute, or None."""
    if not isinstance(value, Call) or not value.named("torch._tensor._rebuild_from_type_v2"):
        return None
    if not isinstance(value.args, tuple) or len(value.args) != 4:
        return None
    func, _, _, state = value.args
    if not isinstance(func, Global) or func.dotted != _UTILS + "_rebuild_wrapper_subclass":
        return None
    parts: dict[str, Any] = {}
    for attributes in state if isinstance(state, tuple) else (state,):
        if isinstance(attributes, dict):
            parts.update(attributes)
    return parts


# torch


def _whole(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise MalformedError("not a whole number from 0")
    return value


def _torch_dtype(value: Any) -> DType:
    if not isinstance(value, Global) or value.module != "torch":
        raise MalformedError("not an element type")
    name = _DTYPE_ALIASES.get(value.name, value.name)
    if name not in DTYPES:
        raise MalformedError(f"an unknown element type, {value.name}")
    return DTYPES[name]


def storage_of(value: Any) -> tuple[StorageSpec, DType | None]:
    """Read ('storage', type, key, location, numel[, view]); untyped storages give no element type.

    Raises:
        MalformedError: It is no reference to a storage.
        KeyError: The storage's type is not known.
    """
    if not isinstance(value, Persistent) or not isinstance(value.key, tuple) or len(value.key) < 5:
        raise MalformedError("not a storage")
    tag, kind, key, _, numel, *rest = value.key
    if tag != "storage" or not isinstance(kind, Global) or not isinstance(key, str | int):
        raise MalformedError("not a storage")
    if kind.name == "UntypedStorage":
        return StorageSpec(key=str(key), nbytes=_whole(numel)), None
    dtype = DTYPES[STORAGES[kind.name.removesuffix("Storage")]]
    size = dtype.itemsize
    view = None
    if rest and rest[0] is not None:  # before torch 0.4 a storage could be a part of another one
        _, first, length = rest[0]
        view = (_whole(first) * size, _whole(length) * size)
    return StorageSpec(key=str(key), nbytes=_whole(numel) * size, itemsize=size, view=view), dtype


def _strided(storage: Any, offset: Any, size: Any, stride: Any, dtype: Any = None) -> TensorSpec:
    spec, typed = storage_of(storage)
    element = _torch_dtype(dtype) if dtype is not None else typed
    if element is None:
        raise MalformedError("an untyped storage without an element type")
    shape, strides = sizes(size), sizes(stride)
    if len(shape) != len(strides):
        raise MalformedError("sizes and strides of different lengths")
    return TensorSpec(dtype=element, shape=shape, strides=strides, offset=_whole(offset), storage=spec)


def _storage_tensor(value: Persistent) -> TensorSpec:
    spec, typed = storage_of(value)
    dtype = typed or DTYPES["uint8"]
    numel = (spec.view[1] if spec.view else spec.nbytes) // dtype.itemsize
    return TensorSpec(dtype=dtype, shape=(numel,), strides=(1,), storage=spec)


def _from_v2(call: Call) -> list[TensorSpec]:
    storage, offset, size, stride = call.args[:4]
    return [_strided(storage, offset, size, stride)]


def _from_v3(call: Call) -> list[TensorSpec]:
    storage, offset, size, stride, _, _, dtype = call.args[:7]
    return [_strided(storage, offset, size, stride, dtype)]


def _from_inner(call: Call) -> list[TensorSpec]:
    inner = tensors_of(call.args[0])
    if inner is None:
        raise MalformedError("no tensor inside")
    return inner


def _part(value: Any, suffix: str, whole: str) -> list[TensorSpec]:
    """Describe a part of a composed tensor, which must be a plain tensor itself."""
    if not isinstance(value, Call) or not value.named(*_PLAIN):
        raise MalformedError("a part that is no plain tensor")
    return [replace(spec, suffix=suffix, part_of=whole) for spec in tensors_of(value) or ()]


def _from_sparse(call: Call) -> list[TensorSpec]:
    layout, parts = call.args[:2]
    name = layout.args[0] if isinstance(layout, Call) else getattr(layout, "name", layout)
    if not isinstance(name, str):
        raise MalformedError("not a layout")
    names = ("indices", "values") if "coo" in name else ("compressed_indices", "plain_indices", "values")
    return [spec for part, label in zip(parts, names, strict=False) for spec in _part(part, f".{label}", "sparse")]


def _from_nested(call: Call) -> list[TensorSpec]:
    names = ("buffer", "sizes", "strides", "offsets")
    return [
        spec
        for part, label in zip(call.args, names, strict=True)
        for spec in _part(part, "" if label == "buffer" else f".{label}", "nested")
    ]


def _from_type(call: Call) -> list[TensorSpec] | None:
    func, _, args = call.args[:3]
    return tensors_of(Call(func, args))


def _from_variable(call: Call) -> list[TensorSpec] | None:
    """Describe a parameter of torch before 0.4, whose tensor is its first argument or the first part of its state."""
    for part in (call.args, call.state):
        if isinstance(part, tuple) and part and isinstance(part[0], Call | Persistent):
            return tensors_of(part[0])
    return None


def _from_meta(call: Call) -> list[TensorSpec]:
    dtype, size, stride = call.args[:3]
    return [
        TensorSpec(
            dtype=_torch_dtype(dtype),
            shape=sizes(size),
            strides=sizes(stride),
            absent="a meta tensor: it was saved without data",
        )
    ]


_REBUILDERS: dict[str, Callable[[Call], list[TensorSpec] | None]] = {
    _UTILS + "_rebuild_tensor": _from_v2,
    _UTILS + "_rebuild_tensor_v2": _from_v2,
    _UTILS + "_rebuild_tensor_v3": _from_v3,
    _UTILS + "_rebuild_qtensor": _from_v2,
    _UTILS + "_rebuild_parameter": _from_inner,
    _UTILS + "_rebuild_parameter_with_state": _from_inner,
    _UTILS + "_rebuild_device_tensor_from_cpu_tensor": _from_inner,
    _UTILS + "_rebuild_device_tensor_from_numpy": _from_inner,
    _UTILS + "_rebuild_xla_tensor": _from_inner,
    _UTILS + "_rebuild_sparse_tensor": _from_sparse,
    _UTILS + "_rebuild_sparse_csr_tensor": _from_sparse,
    _UTILS + "_rebuild_nested_tensor": _from_nested,
    _UTILS + "_rebuild_meta_tensor_no_storage": _from_meta,
    "torch.nn.parameter.Parameter": _from_variable,
    "torch.autograd.variable.Variable": _from_variable,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch._tensor._rebuild_from_type": _from_type,
    **arrays.REBUILDERS,
}
