"""Distributed checkpoints (`torch.distributed.checkpoint`): a folder with `.metadata` and files of many items.

The metadata is a pickle that every official tool unpickles; here it is read as data. An item is a whole torch
archive inside a `.distcp` file, or a tensor of a safetensors file. A tensor that is spread over ranks is listed
piece by piece, each under its name and its place in the whole: `layer.weight[0:512, 0:1024]`.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torchmend.facts.codes import Code
from torchmend.facts.dtypes import DTYPES
from torchmend.facts.errors import FileError
from torchmend.facts.paths import Path as KeyPath
from torchmend.facts.paths import component, joined, split_paths
from torchmend.formats import safetensors, torch_zip
from torchmend.formats.contents import Contents, Oddity, StoredTensor, first_imports
from torchmend.formats.folders import Part, beside, inside, joined_contents
from torchmend.formats.mapped import MappedFile
from torchmend.formats.pickles.machine import Machine
from torchmend.formats.pickles.records import Call, OpaqueKey
from torchmend.formats.pickles.specs import MalformedError, sizes
from torchmend.formats.protocols import Claim, ReadFile
from torchmend.formats.sections import Section
from torchmend.formats.zips import read_members

METADATA = ".metadata"
LARGEST_METADATA = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """What the metadata says of one stored item.

    Args:
        path: Its keys in the saved state.
        file: The file that holds it, relative to the folder.
        start: Where it begins there.
        nbytes: Its length.
        offsets: Where it begins in the whole tensor; None for what is no tensor.
        shape: Its own sizes, if it is a tensor.
        whole: The sizes of the whole tensor.
        packed: What its bytes went through on their way to the file, if anything.
    """

    path: KeyPath
    file: str
    start: int
    nbytes: int
    offsets: tuple[int, ...] | None
    shape: tuple[int, ...]
    whole: tuple[int, ...]
    packed: str

    @property
    def label(self) -> str:
        """What to append to the name of a piece; empty for a whole tensor."""
        if self.offsets is None or self.shape == self.whole:
            return ""
        return f"[{', '.join(f'{o}:{o + n}' for o, n in zip(self.offsets, self.shape, strict=True))}]"

    @property
    def labelled(self) -> KeyPath:
        """Its path, with its place in the whole appended to the last key."""
        return (*self.path[:-1], f"{self.path[-1]}{self.label}") if self.label else self.path


def claims(folder: Path) -> list[Claim]:
    """Claim a folder that holds a `.metadata` file."""
    return [Claim(path=folder)] if (folder / METADATA).is_file() else []


def read(path: Path, read_file: ReadFile) -> Contents:
    """Read the metadata, the structure of every item, and the torch files that frameworks put beside them.

    An item that cannot be read leaves its tensor without bytes; the others are there.

    Raises:
        FileError: The metadata cannot be read, or names files outside the folder.
    """
    index = MappedFile(path / METADATA)
    machine = Machine(index.read(0, min(index.size, LARGEST_METADATA)))
    try:
        items = list(_items(machine.run()))
    except (MalformedError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise FileError(
            Code.UNREADABLE,
            f"Its {METADATA} does not describe a distributed checkpoint ({error}).",
            "Use an earlier checkpoint.",
        ) from None
    optimizers = _optimizers([item.path for item in items])
    reader = _Reader(path, items, optimizers)
    parts = [Part(contents=Contents(files=(index,), format="", tensors=())), *reader.parts()]
    companions, problems = beside(path, read_file, {path / item.file for item in items})
    whole = joined_contents([*parts, *companions], format="distributed checkpoint", folder=path)
    return replace(
        whole,
        tensors=(*whole.tensors, *reader.absent),
        optimizers=whole.optimizers | {joined(where): keys for where, keys in optimizers.items()},
        oddities=(*whole.oddities, *reader.oddities, *problems),
        imports=first_imports((*machine.imports(start=0, pickle=METADATA), *whole.imports)),
    )


class _Reader:
    """Reads the items of a folder; what cannot be read is collected.

    Args:
        folder: The checkpoint.
        items: What the metadata lists.
        optimizers: Paths of optimizer states.
    """

    def __init__(self, folder: Path, items: Sequence[_Item], optimizers: Collection[KeyPath]) -> None:
        self.absent: list[StoredTensor] = []
        self.oddities: list[Oddity] = []
        self._files: dict[str, MappedFile | str] = {}
        for name in dict.fromkeys(item.file for item in items):
            place = inside(folder, name, METADATA)
            try:
                self._files[name] = MappedFile(place)
            except FileError as error:
                self._files[name] = f"its file {name} cannot be read: {error.message}"
        self._tables: dict[str, Contents] = {}
        self._overlapping = _overlapping(items)
        tensors = [item for item in items if item.offsets is not None]
        self._names = dict(
            zip(map(id, tensors), split_paths([item.labelled for item in tensors], optimizers), strict=True)
        )
        self._items = items

    def parts(self) -> Iterator[Part]:
        """Yield each item as a part of the whole."""
        for item in self._items:
            try:
                yield self._part(item)
            except (FileError, MalformedError) as error:
                self._lose(item, error.message if isinstance(error, FileError) else str(error))

    def _part(self, item: _Item) -> Part:
        file = self._files[item.file]
        if isinstance(file, str):
            raise MalformedError(file)
        if item.packed:
            raise MalformedError(f"its bytes went through {item.packed}, which torchmend does not undo")
        if safetensors.recognises(file):
            return self._from_table(item, file)
        if item.start + item.nbytes > file.size:
            end = item.start + item.nbytes
            raise MalformedError(f"it ends at byte {end:,} of {item.file}, which has {file.size:,}")
        if (other := self._overlapping.get(id(item))) is not None:
            detail = f"{joined(item.labelled)} and {joined(other.labelled)} in {item.file}"
            self.oddities.append(Oddity(code=Code.OVERLAPPING, detail=detail))
            raise MalformedError(f"its bytes overlap those of {joined(other.labelled)}")
        section = Section(file, item.start, item.nbytes)
        contents = torch_zip.read(section, read_members(section))
        if item.offsets is None:
            return Part(contents=contents, base=item.start, prefix=item.path)
        if len(contents.tensors) != 1:
            raise MalformedError(f"its bytes hold {len(contents.tensors):,} tensors, where one is expected")
        named = self._named(item, contents.tensors[0])
        return Part(contents=replace(contents, tensors=(named,)), base=item.start)

    def _from_table(self, item: _Item, file: MappedFile) -> Part:
        if item.file not in self._tables:
            self._tables[item.file] = safetensors.read(file)
        table = self._tables[item.file]
        name = joined(item.path)
        found = next((tensor for tensor in table.tensors if tensor.name == name), None)
        if found is None:
            raise MalformedError(f"{item.file} does not hold it")
        return Part(contents=Contents(files=table.files, format="", tensors=(self._named(item, found),)))

    def _named(self, item: _Item, tensor: StoredTensor) -> StoredTensor:
        if tensor.shape != item.shape:
            found, expected = list(tensor.shape), list(item.shape)
            raise MalformedError(f"its bytes hold a tensor of shape {found}, where {expected} is expected")
        container, name = self._names[id(item)]
        return replace(tensor, container=container, name=name)

    def _lose(self, item: _Item, reason: str) -> None:
        container, name = self._names.get(id(item), ("", joined(item.path)))
        self.absent.append(
            StoredTensor(container=container, name=name, dtype=DTYPES["uint8"], shape=(), strides=(), absent=reason)
        )


def _overlapping(items: Iterable[_Item]) -> dict[int, _Item]:
    """Return the items of torch archives whose bytes an earlier one claims too, with that one."""
    found: dict[int, _Item] = {}
    last: _Item | None = None
    for item in sorted(items, key=lambda each: (each.file, each.start)):
        if last is not None and last.file == item.file and item.start < last.start + last.nbytes:
            found[id(item)] = last
        else:
            last = item
    return found


def _optimizers(paths: Sequence[KeyPath]) -> dict[KeyPath, tuple[tuple[str, str | None], ...]]:
    """Find optimizer states: what has both `state` and `param_groups`; its parameters are keyed by name."""
    places = {path[: path.index("param_groups")] for path in paths if "param_groups" in path}
    found: dict[KeyPath, tuple[tuple[str, str | None], ...]] = {}
    for place in places:
        depth = len(place)
        keys = [str(p[depth + 1]) for p in paths if p[:depth] == place and len(p) > depth + 2 and p[depth] == "state"]
        found[place] = tuple((key, key) for key in dict.fromkeys(keys))
    return found


# Reading the metadata


def _items(root: Any) -> Iterator[_Item]:
    """List what the metadata's `storage_data` places, with what `state_dict_metadata` says of it."""
    fields = _fields(root)
    described = dict(_entries(fields["state_dict_metadata"]))
    planned = dict(_entries(fields.get("planner_data") or {}))
    for key, info in _entries(fields["storage_data"]):
        index, stored = _fields(key.value if isinstance(key, OpaqueKey) else key), _fields(info)
        name = index["fqn"]
        offsets = None if index.get("offset") is None else sizes(index["offset"])
        tensor = _fields(described[name]) if offsets is not None else {}
        transforms = stored.get("transform_descriptors")
        yield _Item(
            path=_key_path(planned.get(name), name),
            file=str(stored["relative_path"]),
            start=_count(stored["offset"]),
            nbytes=_count(stored["length"]),
            offsets=offsets,
            shape=_chunk(tensor, offsets) if offsets is not None else (),
            whole=sizes(tensor["size"]) if offsets is not None else (),
            packed=", ".join(map(str, transforms)) if isinstance(transforms, list | tuple) else "",
        )


def _chunk(tensor: Mapping[str, Any], offsets: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes of the piece of a tensor that begins at these offsets."""
    for chunk in tensor["chunks"]:
        fields = _fields(chunk)
        if sizes(fields["offsets"]) == offsets:
            return sizes(fields["sizes"])
    raise MalformedError(f"no piece of a tensor begins at {list(offsets)}")


def _key_path(planned: Any, name: str) -> KeyPath:
    return tuple(map(component, planned)) if isinstance(planned, list | tuple) and planned else (name,)


def _fields(value: Any) -> Mapping[str, Any]:
    """Return the attributes of a pickled dataclass."""
    state = value.state if isinstance(value, Call) else None
    if not isinstance(state, dict):
        raise MalformedError("an object without attributes")
    return state


def _entries(value: Any) -> Iterable[tuple[Any, Any]]:
    pairs = value.pairs if isinstance(value, Call) else value
    return (pairs or {}).items()


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise MalformedError("a place in a file that is none")
    return value
