"""Tensors as pickles describe them + where their storages lie -> stored tensors."""

from dataclasses import replace

from torchmend.facts.dtypes import DTYPES
from torchmend.formats.contents import Extent, StoredTensor
from torchmend.formats.pickles.specs import TensorSpec


def described(container: str, name: str, spec: TensorSpec) -> StoredTensor:
    """Turn a description into a stored tensor that has no place yet."""
    return StoredTensor(
        container=container,
        name=name,
        dtype=spec.dtype,
        shape=spec.shape,
        strides=spec.strides,
        offset=spec.offset,
        inline=spec.inline,
        little_endian=spec.little_endian,
        part_of=spec.part_of,
    )


def placed(container: str, name: str, spec: TensorSpec, storage: Extent | None) -> StoredTensor:
    """Put a tensor where its storage lies, in little-endian order.

    Args:
        container: Where its state dict stands.
        name: Its name there.
        spec: What the pickle says of it.
        storage: The bytes of its storage; None when the file has none of that name.
    """
    wanted = spec.storage is not None and spec.storage.nbytes > 0
    missing = f"its storage {spec.storage.key} is not in the file" if spec.storage and wanted and not storage else ""
    tensor = replace(
        described(container, name, spec), extent=storage if wanted else None, absent=spec.absent or missing
    )
    if tensor.extent is None or spec.storage is None or spec.storage.view is None:
        return tensor
    return _in_view(tensor, tensor.extent, spec.storage.view)


def _in_view(tensor: StoredTensor, whole: Extent, view: tuple[int, int]) -> StoredTensor:
    """Count from the start of the whole storage, so that tensors in different views of it share its identity."""
    start, nbytes = view
    if start + nbytes > whole.nbytes:
        return replace(tensor, extent=None, absent=f"it lies in a part of a storage that ends {_beyond(whole, view)}")
    narrow = replace(tensor, extent=replace(whole, start=whole.start + start, nbytes=nbytes))
    if narrow.misfit() or start % tensor.dtype.itemsize:
        return narrow
    return replace(tensor, offset=tensor.offset + start // tensor.dtype.itemsize)


def _beyond(whole: Extent, view: tuple[int, int]) -> str:
    return f"{sum(view) - whole.nbytes:,} bytes behind the storage's end"


def unknown(name: str, reason: str) -> StoredTensor:
    """Stand in for a tensor whose description could not be understood."""
    return StoredTensor(
        container="",
        name=name,
        dtype=DTYPES["uint8"],
        shape=(),
        strides=(),
        absent=f"its description is {reason}",
    )
