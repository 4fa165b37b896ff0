"""Calls by which pickles rebuild numpy arrays and scalars -> descriptions. Nothing is rebuilt."""

import struct
from collections.abc import Callable
from typing import Any

from torchmend.facts.dtypes import DTYPES, DType
from torchmend.formats.pickles.records import Call
from torchmend.formats.pickles.specs import MalformedError, NotNumbersError, TensorSpec, sizes

NUMPY_KINDS = {
    **{f"{kind}{size}": f"{name}{8 * size}" for kind, name in (("i", "int"), ("u", "uint")) for size in (1, 2, 4, 8)},
    **{f"f{size}": f"float{8 * size}" for size in (2, 4, 8)},
    "c8": "complex64",
    "c16": "complex128",
    "b1": "bool",
}
"""NumPy's kind and size in bytes -> our name."""


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


def _numpy_dtype(value: Any) -> tuple[DType, bool]:
    if not isinstance(value, Call) or not value.named("numpy.dtype"):
        raise MalformedError("not an element type")
    if value.args[0] not in NUMPY_KINDS:
        if isinstance(value.args[0], str) and value.args[0][:1] in ("S", "U", "M", "m", "O"):
            raise NotNumbersError("an array of something else than numbers")
        raise MalformedError("an element type that is not known")
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "<"
    return DTYPES[NUMPY_KINDS[value.args[0]]], order != ">"


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, Call) and value.named("__builtin__.bytes", "builtins.bytes"):  # how protocol 2 writes b""
        return b""
    if isinstance(value, Call) and value.named("_codecs.encode"):
        text, encoding = value.args
        if encoding not in ("latin1", "latin-1"):
            raise MalformedError("an unknown encoding")
        if not isinstance(text, str):
            raise MalformedError("no text to encode")
        if value.encoded is None:
            value.encoded = text.encode("latin-1")
        return value.encoded
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
    return [_array(_as_bytes(raw), element, sizes(size), bool(fortran), little_endian)]


def _from_buffer(call: Call) -> list[TensorSpec]:
    raw, dtype, size, order = call.args
    element, little_endian = _numpy_dtype(dtype)
    return [_array(_as_bytes(raw), element, sizes(size), order == "F", little_endian)]


REBUILDERS: dict[str, Callable[[Call], list[TensorSpec] | None]] = {
    "numpy.core.multiarray._reconstruct": _from_array,
    "numpy._core.multiarray._reconstruct": _from_array,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
}
