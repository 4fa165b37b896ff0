"""Files that torch wrote long ago and does not write any more, written by hand: tar archives."""

import io
import pickle
import struct
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

KINDS = {
    "float32": torch.FloatStorage, "float64": torch.DoubleStorage, "float16": torch.HalfStorage,
    "int64": torch.LongStorage, "int32": torch.IntStorage, "uint8": torch.ByteStorage,
}  # fmt: skip


class Key:
    """Stands for a tensor or a storage, by its number, or for a class with its source."""

    def __init__(self, key: object) -> None:
        self.key = key


class _Pickler(pickle._Pickler):
    def persistent_id(self, value: object) -> object:
        return value.key if isinstance(value, Key) else None


def pickled(value: object) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, protocol=2).dump(value)
    return stream.getvalue()


def storages(arrays: dict[int, np.ndarray], views: Iterable[tuple[int, int, int, int]] = ()) -> bytes:
    """Write the part `storages`; a view is (key, key of the whole, first element, number of elements)."""
    parts = [pickled(len(arrays))]
    for key, array in arrays.items():
        parts += [pickled((key, "cpu", KINDS[array.dtype.name])), struct.pack("<q", array.size), array.tobytes()]
    return b"".join([*parts, pickled(list(views))])


def tensors(entries: Iterable[tuple[int, int, tuple[int, ...], tuple[int, ...], int]]) -> bytes:
    """Write the part `tensors`; an entry is (key, storage, sizes, strides, offset)."""
    entries = list(entries)
    parts = [pickled(len(entries))]
    for key, storage, sizes, strides, offset in entries:
        parts.append(pickled((key, storage, torch.FloatTensor)))
        parts.append(struct.pack("<ii", len(sizes), 0))
        parts.append(struct.pack(f"<{2 * len(sizes) + 1}q", *sizes, *strides, offset))
    return b"".join(parts)


def archive(parts: dict[str, bytes] | list[tuple[str, bytes]], *, mtime: float = 0.5) -> bytes:
    """Write the archive; torch gave each part a pax header, for a time with a fraction."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:", format=tarfile.PAX_FORMAT) as tar:
        for name, data in parts.items() if isinstance(parts, dict) else parts:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def tar_of(state: dict[str, Any]) -> bytes:
    """Write a dictionary whose arrays become tensors with a storage each; other values are pickled."""
    arrays = {100 + at: a for at, a in enumerate(v for v in state.values() if isinstance(v, np.ndarray))}
    entries = []
    for key, array in arrays.items():
        strides = tuple(s // array.itemsize for s in array.strides)
        entries.append((key + 1000, key, array.shape, strides, 0))
    numbers = iter(entries)
    obj = {name: Key(next(numbers)[0]) if isinstance(v, np.ndarray) else v for name, v in state.items()}
    return archive(
        {"sys_info": pickled({}), "pickle": pickled(obj), "tensors": tensors(entries), "storages": storages(arrays)}
    )


def tar_at(path: Path, state: dict[str, Any]) -> Path:
    path.write_bytes(tar_of(state))
    return path
