"""Tensors on their way from one file into another."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from torchmend.formats.contents import StoredTensor
from torchmend.formats.mapped import MappedFile
from torchmend.measure.chunks import flat_chunks

Advance = Callable[[int], None]
"""Told how many bytes of tensors have been read or written since the last call."""

_MOST_HELD = 64 << 20
"""Bytes that are read before their pages are let go of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A tensor to be written.

    Args:
        container: The state dict that it goes into; empty for the root.
        name: Its name there.
        tensor: Where its elements are; readable, and of no packed type.
        files: The files that it refers to.
    """

    container: str
    name: str
    tensor: StoredTensor
    files: Sequence[MappedFile]

    @property
    def path(self) -> str:
        """Container and name joined by a dot."""
        return f"{self.container}.{self.name}" if self.container else self.name

    @property
    def nbytes(self) -> int:
        """The size of its elements, one after the other."""
        return self.tensor.numel * self.tensor.dtype.itemsize

    @property
    def storage(self) -> Hashable:
        """Equal for tensors whose elements come out of the same storage and mean the same."""
        tensor = self.tensor
        return tensor.extent or id(tensor.inline), tensor.dtype.name, tensor.little_endian

    @property
    def view(self) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """Offset, strides and shape: which elements of the storage it shows."""
        return self.tensor.offset, self.tensor.strides, self.tensor.shape

    @property
    def span(self) -> tuple[int, int]:
        """Its first and last but one element in the storage; both 0 without elements."""
        tensor = self.tensor
        if not tensor.numel:
            return 0, 0
        reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
        return tensor.offset, tensor.offset + reach + 1

    def chunks(self) -> Iterator[memoryview]:
        """Yield the elements in row-major order, little-endian, in pieces of bounded size."""
        for chunk in flat_chunks(self.tensor.raw(self.files)):
            yield chunk.astype(chunk.dtype.newbyteorder("<"), copy=False).data


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides, in elements, of a row-major tensor without gaps."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(shape[axis + 1], 1)
    return tuple(strides)


def by_storage(parcels: Iterable[Parcel]) -> dict[Hashable, list[Parcel]]:
    """Group the parcels that have elements by their storage."""
    groups: dict[Hashable, list[Parcel]] = {}
    for parcel in parcels:
        if parcel.tensor.numel:
            groups.setdefault(parcel.storage, []).append(parcel)
    return groups


def sharers(parcels: Iterable[Parcel]) -> dict[str, str]:
    """Map each tensor that has elements in common with an earlier one to that one, both by their paths."""
    shared: dict[str, str] = {}
    for group in by_storage(parcels).values():
        furthest, owner = 0, ""
        for parcel in sorted(group, key=lambda each: each.span[0]):
            low, high = parcel.span
            if owner and low < furthest:
                shared[parcel.path] = owner
            if high > furthest:
                furthest, owner = high, owner if low < furthest and owner else parcel.path
    return shared


def releasing(files: Sequence[MappedFile], advance: Advance) -> Advance:
    """Let go of files' pages every now and then, so that a large one is never in memory as a whole."""
    held = 0

    def advanced(nbytes: int) -> None:
        nonlocal held
        advance(nbytes)
        held += nbytes
        if held >= _MOST_HELD:
            held = 0
            for file in files:
                file.release()

    return advanced
