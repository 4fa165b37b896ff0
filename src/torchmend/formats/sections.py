"""A stretch of a mapped file that is a file of its own, and contents whose places are moved to where it lies."""

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from torchmend.facts.paths import joined
from torchmend.formats.contents import Contents, Extent, Oddity, Record, StoredTensor
from torchmend.formats.mapped import MappedFile


class Readable(Protocol):
    """What readers need of a file."""

    @property
    def path(self) -> Path:
        """The file's path."""
        ...

    @property
    def size(self) -> int:
        """Its bytes."""
        ...

    @property
    def mapped(self) -> MappedFile:
        """The file that it lies in: itself, usually."""
        ...

    def read(self, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`, fewer at its end."""
        ...


class Section:
    """A stretch of a file, read as if it were one. Places in it count from its start.

    Args:
        file: The whole file.
        start: Where the stretch begins; inside the file.
        size: Its bytes; it ends inside the file.
    """

    def __init__(self, file: MappedFile, start: int, size: int) -> None:
        self.path = file.path
        self.mapped = file
        self.start = start
        self.size = size

    def read(self, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`, fewer at the end of the stretch."""
        start, end = max(start, 0), min(start + length, self.size)
        return self.mapped.read(self.start + start, end - start) if start < end else b""


def moved(contents: Contents, *, file: int, base: int, prefix: tuple[str | int, ...]) -> Contents:
    """Return contents whose places count from the start of another file, and whose names stand below a prefix.

    Args:
        contents: Of one file or section.
        file: The index that this file will have.
        base: Where the section starts in the file.
        prefix: Path components that go before every container and scalar.
    """
    before = joined(prefix)

    def below(container: str) -> str:
        return ".".join(filter(None, (before, container)))

    return replace(
        contents,
        tensors=tuple(_moved_tensor(t, below(t.container), file, base) for t in contents.tensors),
        scalars=tuple(
            replace(
                scalar,
                path=(*prefix, *scalar.path),
                file=file,
                place=None if scalar.place is None or (scalar.packed and base) else scalar.place + base,
            )
            for scalar in contents.scalars
        ),
        optimizers={below(container): keys for container, keys in contents.optimizers.items()},
        records=tuple(_moved_record(record, file, base) for record in contents.records),
        oddities=tuple(
            Oddity(code=each.code, detail=f"{contents.files[0].path.name}: {each.detail}") for each in contents.oddities
        ),
        imports=tuple(
            replace(
                wanted,
                place=None if wanted.place is None else wanted.place + base,
                pickle=f"{contents.files[0].path.name}{': ' if wanted.pickle else ''}{wanted.pickle}",
            )
            for wanted in contents.imports
        ),
    )


def _moved_tensor(tensor: StoredTensor, container: str, file: int, base: int) -> StoredTensor:
    extent = tensor.extent and Extent(start=tensor.extent.start + base, nbytes=tensor.extent.nbytes, file=file)
    if tensor.packed and base:  # a record inside a larger file cannot grow, so it cannot be stored anew
        extent = None
    return replace(tensor, container=container, extent=extent)


def _moved_record(record: Record, file: int, base: int) -> Record:
    extent = Extent(start=record.extent.start + base, nbytes=record.extent.nbytes, file=file)
    return replace(record, extent=extent, crc_at=tuple(place + base for place in record.crc_at))
