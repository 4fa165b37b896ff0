"""Checkpoints as `torch.save` writes them since torch 1.6: a zip archive with a pickle and raw storages.

TorchScript archives are such files too, with code, and with a second pickle of the tensors that the code captured as
constants; of these archives tensors and numbers are read, and nothing of the code.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.facts.paths import joined
from torchmend.facts.tensors import Scalar
from torchmend.formats.contents import Contents, Extent, Import, Oddity, Record, StoredTensor, first_imports
from torchmend.formats.inflating import Inflated
from torchmend.formats.layout import Piece, duplicates, overlaps, unreferenced
from torchmend.formats.pickles.machine import Machine
from torchmend.formats.pickles.specs import TensorSpec
from torchmend.formats.pickles.tree import Tree, read_tree, split_paths
from torchmend.formats.placing import described, unknown
from torchmend.formats.sections import Readable
from torchmend.formats.zips import STORED, Member, read_member

LARGEST_PICKLE = 2 << 30
LEAST_INFLATED, LARGEST_INFLATED, INFLATED_TIMES = 4 << 20, 256 << 20, 4
"""A compressed pickle may be small and inflate to anything; an index of tensors is short against its file."""

LONGEST_DESCRIPTOR = 24


def read(file: Readable, listed: list[Member]) -> Contents:
    """Read an archive's pickle.

    Args:
        file: The archive.
        listed: Its members.

    Raises:
        FileError: It is malformed, or an archive of something else.
    """
    members = {member.name: member for member in listed}
    pickle_name = next((name for name in members if name.endswith("data.pkl")), None)
    if pickle_name is None:
        raise FileError(
            Code.NOT_A_CHECKPOINT,
            f"A zip archive of {len(members):,} members, but none of them is a data.pkl or an array of NumPy's.",
            "Name a file that torch.save or numpy.savez wrote.",
        )
    root = pickle_name.removesuffix("data.pkl")
    parts = [_Part.read(file, members, root, "data", lambda value: value)]
    if root + "constants.pkl" in members:
        parts.append(_Part.read(file, members, root, "constants", _constants))
    little_endian = _is_little_endian(file, members.get(root + "byteorder"))
    wanted = {f"{root}{part.name}/{spec.storage.key}" for part in parts for _, spec in part.tree.leaves if spec.storage}
    inflated = Inflated(file, (member for member in members.values() if member.name in wanted))
    tensors = [
        _place(container, name, spec, _storage(spec, root, part.name, members), inflated, little_endian)
        for part in parts
        for (container, name), (_, spec) in zip(split_paths(part.tree), part.tree.leaves, strict=True)
    ]
    tensors += [unknown(joined(path), reason) for part in parts for path, reason in part.tree.malformed]
    return Contents(
        files=(file.mapped,),
        format="TorchScript" if any(name.startswith(f"{root}code/") for name in members) else "torch zip",
        tensors=tuple(tensors),
        scalars=tuple(_placed(scalar, part.pickled) for part in parts for scalar in part.tree.scalars),
        optimizers={joined(path): keys for part in parts for path, keys in part.tree.optimizers.items()},
        records=tuple(
            Record(name=m.name, extent=Extent(start=m.start, nbytes=m.nbytes), crc=m.crc, crc_at=m.crc_at)
            for m in members.values()
            if m.method == STORED and m.nbytes
        ),
        oddities=(*_oddities(listed, (f"{root}data/", f"{root}constants/"), tensors), *inflated.oddities),
        imports=first_imports(wanted for part in parts for wanted in part.imports),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One of the archive's pickles: `<name>.pkl`, whose storages are `<name>/<key>`."""

    name: str
    pickled: Member
    tree: Tree
    imports: tuple[Import, ...]

    @classmethod
    def read(
        cls, file: Readable, members: dict[str, Member], root: str, name: str, named: Callable[[Any], Any]
    ) -> Self:
        """Read a pickle; `named` puts names into what it holds."""
        pickled = members[f"{root}{name}.pkl"]
        machine = Machine(read_member(file, pickled, longest_pickle(file, pickled)))
        tree = read_tree(named(machine.run()), machine.state.limit)
        imports = machine.imports(start=pickled.start if pickled.method == STORED else None)
        return cls(name=name, pickled=pickled, tree=tree, imports=imports)


def _constants(value: Any) -> dict[str, Any]:
    """Give constants the names by which the code calls them: `CONSTANTS.c0` is the first."""
    return {"CONSTANTS": {f"c{at}": item for at, item in enumerate(value)}} if isinstance(value, tuple) else {}


def longest_pickle(file: Readable, pickled: Member) -> int:
    """Return how many bytes a pickle in an archive may have, or inflate to."""
    if pickled.method == STORED:
        return LARGEST_PICKLE
    return min(LARGEST_INFLATED, max(LEAST_INFLATED, INFLATED_TIMES * file.size))


def _placed(scalar: Scalar, pickled: Member) -> Scalar:
    """Turn a place in the pickle into a place in the file, or note that the pickle is compressed."""
    if scalar.place is None:
        return scalar
    if pickled.method != STORED:
        return replace(scalar, packed=pickled.name)
    return replace(scalar, place=pickled.start + scalar.place)


def _oddities(members: list[Member], prefixes: tuple[str, ...], tensors: list[StoredTensor]) -> Iterator[Oddity]:
    yield from duplicates(member.name for member in members)
    yield from overlaps(Piece(name=m.name, start=m.header, end=m.start + m.nbytes) for m in members)
    storages = [m for m in members if m.name.startswith(prefixes) and m.method == STORED]
    pieces = [Piece(name=m.name, start=m.start, end=m.start + m.nbytes) for m in storages]
    yield from unreferenced(pieces, tensors, gaps_between(members))


def gaps_between(members: list[Member]) -> int:
    """Count the bytes before and between members that are neither headers nor descriptors."""
    gaps, end = 0, 0
    for member in sorted(members, key=lambda m: m.header):
        gaps += max(member.header - end - LONGEST_DESCRIPTOR, 0)
        end = max(end, member.start + member.nbytes)
    return gaps


def _is_little_endian(file: Readable, member: Member | None) -> bool:
    return member is None or read_member(file, member, 64).strip() != b"big"


def _storage(spec: TensorSpec, root: str, part: str, members: dict[str, Member]) -> Member | str:
    """Return the member that holds a tensor's bytes, or why there is none; empty where none is needed."""
    if spec.storage is None or not spec.storage.nbytes:
        return spec.absent
    member = members.get(f"{root}{part}/{spec.storage.key}")
    return member or f"its storage {part}/{spec.storage.key} is not in the archive"


def _place(
    container: str, name: str, spec: TensorSpec, storage: Member | str, inflated: Inflated, little_endian: bool
) -> StoredTensor:
    tensor = described(container, name, spec)
    if spec.inline is None:
        tensor = replace(tensor, little_endian=little_endian)
    if isinstance(storage, str):
        return replace(tensor, absent=storage)
    extent = Extent(start=storage.start, nbytes=storage.nbytes)
    if storage.method == STORED:
        return replace(tensor, extent=extent)
    if storage.name in inflated.views:
        return replace(tensor, extent=extent, inline=inflated.views[storage.name], packed=storage.name)
    return replace(tensor, absent=inflated.reasons[storage.name])
