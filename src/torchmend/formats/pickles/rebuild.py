"""Calls by which pickles rebuild tensors and arrays -> descriptions of those tensors. Nothing is rebuilt."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torchmend.facts.dtypes import DTYPES, DType
from torchmend.formats.pickles.records import Call, Global, Persistent

_UTILS = "torch._utils."
_PLAIN = tuple(_UTILS + name for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"))
_STORAGES = {
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
_DTYPE_ALIASES = {"double": "float64", "float": "float32", "half": "float16", "chalf": "complex32"}
_NUMPY_KINDS = {
    **{f"{kind}{size}": f"{name}{8 * size}" for kind, name in (("i", "int"), ("u", "uint")) for size in (1, 2, 4, 8)},
    **{f"f{size}": f"float{8 * size}" for size in (2, 4, 8)},
    "c8": "complex64",
    "c16": "complex128",
    "b1": "bool",
}


class MalformedError(ValueError):
    """The arguments of a call are not what the function takes."""


class NotNumbersError(ValueError):
    """An array holds texts, dates or objects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSpec:
    """A storage as a pickle names it."""

    key: str
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A tensor as a pickle describes it.

    Args:
        suffix: What to append to the tensor's name (`.values` for a part of a sparse tensor).
        dtype: The element type.
        shape: Sizes.
        strides: In elements.
        offset: In elements, from the storage's start.
        storage: Where the bytes are, if they are outside the pickle.
        inline: The bytes, if they are inside it.
        absent: Why there are none, otherwise.
        little_endian: The byte order of inline bytes.
    """

    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    suffix: str = ""
    storage: StorageSpec | None = None
    inline: bytes | None = None
    absent: str = ""
    little_endian: bool = True


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


def plain_number(value: Any) -> int | float | None:
    """Return the number that a pickled numpy scalar stands for, or None if it is none."""
    if isinstance(value, Call) and value.named("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"):
        try:
            dtype, little_endian = _numpy_dtype(value.args[0])
            return _numpy_number(_as_bytes(value.args[1]), dtype, little_endian)
        except (ValueError, TypeError, IndexError, KeyError, AttributeError):
            return None
    return None


def _numpy_number(raw: bytes, dtype: DType, little_endian: bool) -> int | float | None:
    codes = {"float64": "d", "float32": "f", "float16": "e", "int64": "q", "int32": "i", "int16": "h", "int8": "b",
             "uint64": "Q", "uint32": "I", "uint16": "H", "uint8": "B", "bool": "?"}  # fmt: skip
    if dtype.name not in codes or len(raw) != dtype.itemsize:
        return None
    number: int | float = struct.unpack(("<" if little_endian else ">") + codes[dtype.name], raw)[0]
    return number


# torch


def _sizes(value: Any) -> tuple[int, ...]:
    if isinstance(value, Call) and value.named("torch.Size"):
        value = value.args[0] if value.args else ()
    if not isinstance(value, tuple | list) or not all(isinstance(n, int) and 0 <= n < 1 << 63 for n in value):
        raise MalformedError("sizes that are not whole numbers from 0")
    return tuple(int(n) for n in value)


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


def _storage(value: Any) -> tuple[StorageSpec, DType | None]:
    """Read ('storage', type, key, location, numel, ...); untyped storages give no element type."""
    if not isinstance(value, Persistent) or not isinstance(value.key, tuple) or len(value.key) < 5:
        raise MalformedError("not a storage")
    tag, kind, key, _, numel, *_ = value.key
    if tag != "storage" or not isinstance(kind, Global) or not isinstance(key, str | int):
        raise MalformedError("not a storage")
    if kind.name == "UntypedStorage":
        return StorageSpec(key=str(key), nbytes=_whole(numel)), None
    dtype = DTYPES[_STORAGES[kind.name.removesuffix("Storage")]]
    return StorageSpec(key=str(key), nbytes=_whole(numel) * dtype.itemsize), dtype


def _strided(storage: Any, offset: Any, size: Any, stride: Any, dtype: Any = None) -> TensorSpec:
    spec, typed = _storage(storage)
    element = _torch_dtype(dtype) if dtype is not None else typed
    if element is None:
        raise MalformedError("an untyped storage without an element type")
    shape, strides = _sizes(size), _sizes(stride)
    if len(shape) != len(strides):
        raise MalformedError("sizes and strides of different lengths")
    return TensorSpec(dtype=element, shape=shape, strides=strides, offset=_whole(offset), storage=spec)


def _storage_tensor(value: Persistent) -> TensorSpec:
    spec, typed = _storage(value)
    dtype = typed or DTYPES["uint8"]
    numel = spec.nbytes // dtype.itemsize
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


def _part(value: Any, suffix: str) -> list[TensorSpec]:
    """Describe a part of a composed tensor, which must be a plain tensor itself."""
    if not isinstance(value, Call) or not value.named(*_PLAIN):
        raise MalformedError("a part that is no plain tensor")
    return [replace(spec, suffix=suffix) for spec in tensors_of(value) or ()]


def _from_sparse(call: Call) -> list[TensorSpec]:
    layout, parts = call.args[:2]
    name = layout.args[0] if isinstance(layout, Call) else getattr(layout, "name", layout)
    if not isinstance(name, str):
        raise MalformedError("not a layout")
    names = ("indices", "values") if "coo" in name else ("compressed_indices", "plain_indices", "values")
    return [spec for part, label in zip(parts, names, strict=False) for spec in _part(part, f".{label}")]


def _from_nested(call: Call) -> list[TensorSpec]:
    names = ("buffer", "sizes", "strides", "offsets")
    return [
        spec
        for part, label in zip(call.args, names, strict=True)
        for spec in _part(part, "" if label == "buffer" else f".{label}")
    ]


def _from_type(call: Call) -> list[TensorSpec] | None:
    func, _, args = call.args[:3]
    return tensors_of(Call(func, args))


def _from_meta(call: Call) -> list[TensorSpec]:
    dtype, size, stride = call.args[:3]
    return [
        TensorSpec(
            dtype=_torch_dtype(dtype),
            shape=_sizes(size),
            strides=_sizes(stride),
            absent="a meta tensor: it was saved without data",
        )
    ]


# numpy


def _numpy_dtype(value: Any) -> tuple[DType, bool]:
    if not isinstance(value, Call) or not value.named("numpy.dtype"):
        raise MalformedError("not an element type")
    if value.args[0] not in _NUMPY_KINDS:
        if isinstance(value.args[0], str) and value.args[0][:1] in ("S", "U", "M", "m", "O"):
            raise NotNumbersError("an array of something else than numbers")
        raise MalformedError("an element type that is not known")
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "<"
    return DTYPES[_NUMPY_KINDS[value.args[0]]], order != ">"


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, Call) and value.named("__builtin__.bytes", "builtins.bytes"):  # how protocol 2 writes b""
        return b""
    if isinstance(value, Call) and value.named("_codecs.encode"):
        text, encoding = value.args
        if encoding not in ("latin1", "latin-1"):
            raise MalformedError("an unknown encoding")
        if not isinstance(text, str):
            raise MalformedError("no text to encode")
        return text.encode("latin-1")
    if isinstance(value, str):  # protocol 2 and below, written by Python 2
        return value.encode("latin-1")
    if not isinstance(value, bytes):
        raise MalformedError("no bytes")
    return value


def _array(raw: bytes, dtype: DType, shape: tuple[int, ...], fortran: bool, little_endian: bool) -> TensorSpec:
    strides = [1] * len(shape)
    order = range(len(shape)) if fortran else reversed(range(len(shape)))
    step = 1
    for axis in order:
        strides[axis] = step
        step *= max(shape[axis], 1)
    return TensorSpec(dtype=dtype, shape=shape, strides=tuple(strides), inline=raw, little_endian=little_endian)


def _from_array(call: Call) -> list[TensorSpec] | None:
    _, size, dtype, fortran, raw = call.state
    if isinstance(raw, list):  # an array of objects
        return None
    element, little_endian = _numpy_dtype(dtype)
    return [_array(_as_bytes(raw), element, _sizes(size), bool(fortran), little_endian)]


def _from_buffer(call: Call) -> list[TensorSpec]:
    raw, dtype, size, order = call.args
    element, little_endian = _numpy_dtype(dtype)
    return [_array(_as_bytes(raw), element, _sizes(size), order == "F", little_endian)]


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
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch._tensor._rebuild_from_type": _from_type,
    "numpy.core.multiarray._reconstruct": _from_array,
    "numpy._core.multiarray._reconstruct": _from_array,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
}
