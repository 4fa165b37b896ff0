"""Checkpoints as `torch.save` wrote them before torch 1.6, and still does when it is told to.

Five pickles stand back to back: a magic number, a version, facts about the machine, the object, and the keys of the
storages in order. Then, for each key, the number of elements (int64) and the elements. There is no checksum.
Storages are little-endian whatever the third pickle says of the machine: torch converts as it writes and reads.
"""

from typing import Any

from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.facts.paths import joined
from torchmend.formats.contents import Contents, Extent
from torchmend.formats.layout import Piece, duplicates, unreferenced
from torchmend.formats.mapped import MappedFile
from torchmend.formats.pickles.machine import Machine
from torchmend.formats.pickles.rebuild import storage_of
from torchmend.formats.pickles.records import Persistent
from torchmend.formats.pickles.specs import MalformedError, StorageSpec
from torchmend.formats.pickles.tree import read_tree, split_paths
from torchmend.formats.placing import placed, unknown

MAGIC = 0x1950_A86A_20F9_469C_FC6C
VERSION = 1001

_STARTS = (b"\x8a\n" + MAGIC.to_bytes(10, "little") + b".", b"L%dL\n." % MAGIC)
"""The first pickle without its preamble, in protocols from 2 on and in protocols 0 and 1."""

_COUNT = 8
"""Bytes of the number that stands before each storage."""


def recognises(file: MappedFile) -> bool:
    """Return whether the file starts with the pickle of the magic number, in any protocol."""
    head = file.read(0, 48)
    return any(start in head for start in _STARTS)


def read(file: MappedFile, *, cut: bool = False) -> Contents:
    """Read the pickles, and where the storages lie.

    Args:
        file: The file.
        cut: Whether the file may end, or lose its thread, before its storages do; from there on they are absent,
            but for the beginning of one at the file's end, which has fewer bytes than the pickle says.

    Raises:
        FileError: It is cut off or malformed.
    """
    references = _References()
    machine = Machine(file.buffer, persistent=references.resolve)
    magic, version, _, root, keys = (_next(machine, file) for _ in range(5))
    if magic != MAGIC or version != VERSION:
        raise _malformed(f"it is of version {version!r}, where only {VERSION} is known")
    if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys):
        raise _malformed("its list of storages is none")
    tree = read_tree(root, machine.state.limit)
    keys = [str(key) for key in keys]
    extents, end = _walk(file, machine.state.position, keys, references.storages, cut=cut)
    tensors = [
        placed(container, name, spec, extents.get(spec.storage.key) if spec.storage else None)
        for (container, name), (_, spec) in zip(split_paths(tree), tree.leaves, strict=True)
    ]
    tensors += [unknown(joined(path), reason) for path, reason in tree.malformed]
    pieces = [Piece(name=f"storage {key}", start=e.start, end=e.start + e.nbytes) for key, e in extents.items()]
    return Contents(
        files=(file,),
        format="legacy torch stream",
        tensors=tuple(tensors),
        scalars=tuple(tree.scalars),
        optimizers={joined(path): keys for path, keys in tree.optimizers.items()},
        oddities=(*duplicates(f"storage {key}" for key in keys), *unreferenced(pieces, tensors, file.size - end)),
        imports=machine.imports(start=0),
    )


class _References:
    """What the object's pickle names outside itself: storages, and classes with their source."""

    def __init__(self) -> None:
        self.storages: dict[str, StorageSpec] = {}

    def resolve(self, key: Any) -> Any:
        """Put a class in place of a reference to it, as torch does; note each storage as it is first named."""
        if isinstance(key, tuple) and len(key) > 1 and key[0] == "module":
            return key[1]
        reference = Persistent(key)
        try:
            spec, _ = storage_of(reference)
        except (MalformedError, KeyError, TypeError, ValueError):  # told where a tensor or the walk needs it
            return reference
        self.storages.setdefault(spec.key, spec)
        return reference


def _next(machine: Machine, file: MappedFile) -> Any:
    try:
        return machine.run()
    except FileError:
        if machine.is_cut:
            raise truncated(file, "inside its pickles, before the first storage") from None
        raise


def _walk(
    file: MappedFile, at: int, keys: list[str], storages: dict[str, StorageSpec], *, cut: bool
) -> tuple[dict[str, Extent], int]:
    """Go from storage to storage; return where each lies, and where the last one ends."""
    extents: dict[str, Extent] = {}
    for number, key in enumerate(keys):
        try:
            extent = _next_storage(file, at, key, storages)
        except FileError:
            if cut:
                return extents, at
            raise
        at = extent.start + extent.nbytes
        if at > file.size:
            if not cut:
                raise truncated(file, f"inside its storages, of which {number:,} of {len(keys):,} are whole")
            if extent.start < file.size:
                extents[key] = Extent(start=extent.start, nbytes=file.size - extent.start)
            return extents, file.size
        extents[key] = extent
    return extents, at


def _next_storage(file: MappedFile, at: int, key: str, storages: dict[str, StorageSpec]) -> Extent:
    """Return where a storage lies whose count stands at `at`; it may end behind the file's end."""
    spec = storages.get(key)
    if spec is None:
        raise _malformed(f"nothing tells the element type of storage {key}, so what follows it cannot be found")
    counted = file.read(at, _COUNT)
    count = int.from_bytes(counted, "little", signed=True)
    if len(counted) == _COUNT and count * spec.itemsize != spec.nbytes:
        have = f"{spec.nbytes // spec.itemsize:,} elements in the index and {count:,} in the data"
        raise _malformed(f"storage {key} has {have}")
    return Extent(start=at + _COUNT, nbytes=spec.nbytes)


def truncated(file: MappedFile, where: str) -> FileError:
    """Make the error for a file that ends too early."""
    return FileError(
        Code.TRUNCATED,
        f"The file is cut off after {file.size:,} bytes, {where}.",
        "The save or the download was interrupted; use an earlier checkpoint. `torchmend salvage` saves what is whole.",
    )


def _malformed(what: str) -> FileError:
    return FileError(
        Code.UNREADABLE, f"The legacy checkpoint contradicts itself: {what}.", "Use an earlier checkpoint."
    )
