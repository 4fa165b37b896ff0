"""Write a torch file, as `torch.save` of nested dictionaries of tensors does."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

from torchmend.doctor.writing.parcels import Advance, Parcel, by_storage, contiguous_strides
from torchmend.doctor.writing.pickling import Described, Tree, pickled
from torchmend.doctor.writing.zip_archive import ALIGNMENT, ZipArchive
from torchmend.facts.errors import UserError

_ROOT = "archive"
"""What torch calls the root of an archive that it writes into a stream."""

_DEEPEST = 50
"""Levels of dictionaries; what is below is joined by dots."""


def write(parcels: Sequence[Parcel], out: BinaryIO, advance: Advance) -> None:
    """Write a torch zip that `torch.load(weights_only=True, mmap=True)` takes.

    Tensors that shared a storage share one again, unless most of it would be bytes that none of them shows.

    Args:
        parcels: What to write, in this order.
        out: An empty file.
        advance: Told of every piece that was written.

    Raises:
        UserError: A name is a tensor's and a dictionary's at once.
        OSError: The disk is full.
    """
    storages, described = _share(parcels)
    index = pickled(_nested(parcels, described))
    archive = ZipArchive(out)
    archive.add(f"{_ROOT}/data.pkl", len(index), [index])
    _add_text(archive, ".format_version", "1")
    _add_text(archive, ".storage_alignment", str(ALIGNMENT))
    _add_text(archive, "byteorder", "little")
    for key, storage in enumerate(storages):
        archive.add(f"{_ROOT}/data/{key}", storage.nbytes, _told(storage, advance))
    _add_text(archive, "version", "3\n")
    archive.finish()


def _add_text(archive: ZipArchive, name: str, text: str) -> None:
    archive.add(f"{_ROOT}/{name}", len(text), [text.encode()])


def _told(parcel: Parcel, advance: Advance) -> Iterator[memoryview]:
    for chunk in parcel.chunks():
        yield chunk
        advance(chunk.nbytes)


def _share(parcels: Sequence[Parcel]) -> tuple[list[Parcel], list[Described]]:
    """Return what is written under each key, and where in it each of the parcels lies."""
    stretches = {storage: _stretch(group) for storage, group in by_storage(parcels).items()}
    keys: dict[Hashable, int] = {}
    storages: list[Parcel] = []
    described = []
    for place, parcel in enumerate(parcels):
        tensor = parcel.tensor
        stretch = stretches[parcel.storage] if tensor.numel else None
        identity = parcel.storage if stretch else (parcel.storage, parcel.view) if tensor.numel else place
        if identity not in keys:
            keys[identity] = len(storages)
            storages.append(stretch or parcel)
        described.append(
            Described(
                key=str(keys[identity]),
                nbytes=(stretch or parcel).nbytes,
                dtype=tensor.dtype,
                offset=tensor.offset - stretch.tensor.offset if stretch else 0,
                shape=tensor.shape,
                strides=tensor.strides if stretch else contiguous_strides(tensor.shape),
            )
        )
    return storages, described


def _stretch(group: Sequence[Parcel]) -> Parcel | None:
    """Return the part of a storage that tensors use, as one flat parcel; None where they had better be apart."""
    low, high = min(each.span[0] for each in group), max(each.span[1] for each in group)
    shown = {each.view: each.tensor.numel for each in group}
    if high - low > sum(shown.values()):
        return None
    flat = replace(group[0].tensor, shape=(high - low,), strides=(1,), offset=low)
    return replace(group[0], tensor=flat)


def _nested(parcels: Sequence[Parcel], described: Sequence[Described]) -> Tree:
    """Put the tensors into dictionaries, one in the other as their containers' names say."""
    root: dict[str, Any] = {}
    for parcel, tensor in zip(parcels, described, strict=True):
        here = root
        for part in parcel.container.split(".", _DEEPEST) if parcel.container else ():
            here = here.setdefault(part, {})
            if isinstance(here, Described):
                raise _clash(parcel)
        if parcel.name in here:
            raise _clash(parcel)
        here[parcel.name] = tensor
    return root


def _clash(parcel: Parcel) -> UserError:
    return UserError(
        f"{parcel.path} would be written into the same place as another tensor. "
        "Convert one container at a time with --container."
    )
