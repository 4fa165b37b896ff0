"""Checkpoints as the first releases of torch wrote them: a tar of `sys_info`, `pickle`, `tensors` and `storages`.

`storages` is a pickled count; for each storage a pickled (key, location, type), the number of elements (int64) and
the elements; at last a pickled list of views (key, key of the whole, first element, elements). `tensors` is a pickled
count; for each tensor a pickled (key, storage, type), and in binary its dimensions, sizes, strides and offset.
`pickle` is the object, in which the keys stand for tensors and storages. All numbers are little-endian.

The headers are read here and not by `tarfile`: torch wrote nothing but regular files with at most a pax header before
each, and what else `tarfile` understands (sparse maps, links, long names, pax headers of any length, each read into
memory and searched) is only of use to a hostile archive.
"""

import re
import struct
from dataclasses import dataclass
from typing import Any

from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.facts.paths import joined
from torchmend.formats.contents import Contents, Extent, first_imports
from torchmend.formats.layout import Piece, duplicates, unreferenced
from torchmend.formats.legacy_stream import truncated
from torchmend.formats.mapped import MappedFile
from torchmend.formats.pickles.machine import Machine
from torchmend.formats.pickles.rebuild import storage_of
from torchmend.formats.pickles.records import Call, Global, Persistent
from torchmend.formats.pickles.specs import MalformedError
from torchmend.formats.pickles.tree import read_tree, split_paths
from torchmend.formats.placing import placed, unknown

_BLOCK = 512
_NEEDED = ("storages", "tensors", "pickle")
_MOST_PARTS = 32
"""Files and headers in an archive; torch wrote four files, each with a header of its own."""

_LONGEST_PAX = 1 << 14
_PAX_SIZE = re.compile(rb"(?:^|\n)\d+ size=(\d{1,19})\n")
_REBUILD = Global("torch._utils", "_rebuild_tensor_v2")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A regular file in the archive: where its bytes begin and end."""

    name: str
    start: int
    end: int


def recognises(file: MappedFile) -> bool:
    """Return whether the file is a tar archive with a part that only torch's have."""
    return file.read(257, 5) == b"ustar" and any(part.name in _NEEDED for part in _parts(file)[0])


def read(file: MappedFile) -> Contents:
    """Read the archive's parts; storages are only located.

    Raises:
        FileError: It is cut off or malformed.
    """
    listed, is_cut = _parts(file)
    parts = {part.name: part for part in listed}
    for name in _NEEDED:
        if name not in parts and is_cut:
            raise truncated(file, f"before its part {name}")
        if name not in parts:
            raise _malformed(f"it lacks the part {name}")
    storages = _Storages(file, parts["storages"])
    tensors, machine = _tensors(file, parts["tensors"], storages.references)
    pickled = _machine(file, parts["pickle"], {**storages.references, **tensors})
    tree = read_tree(_next(pickled, file, parts["pickle"]), pickled.state.limit)
    found = [
        placed(container, name, spec, storages.extents.get(spec.storage.key) if spec.storage else None)
        for (container, name), (_, spec) in zip(split_paths(tree), tree.leaves, strict=True)
    ]
    found += [unknown(joined(path), reason) for path, reason in tree.malformed]
    pieces = [
        Piece(name=f"storage {key}", start=e.start, end=e.start + e.nbytes) for key, e in storages.extents.items()
    ]
    machines = {"storages": storages.machine, "tensors": machine, "pickle": pickled}
    return Contents(
        files=(file,),
        format="legacy torch tar",
        tensors=tuple(found),
        scalars=tuple(tree.scalars),
        optimizers={joined(path): keys for path, keys in tree.optimizers.items()},
        oddities=(*duplicates(part.name for part in listed), *unreferenced(pieces, found, _behind(file, listed))),
        imports=first_imports(
            wanted for name, each in machines.items() for wanted in each.imports(start=0, pickle=name)
        ),
    )


def _parts(file: MappedFile) -> tuple[list[_Part], bool]:
    """List the parts up to the first header that torch would not have written, and whether the file ends before it."""
    parts: list[_Part] = []
    at, longer = 0, None
    for _ in range(_MOST_PARTS):
        header = file.read(at, _BLOCK)
        size, total = (_octal(header[start : start + width]) for start, width in ((124, 12), (148, 8)))
        if len(header) < _BLOCK:
            return parts, True
        if size is None or total != sum(header) - sum(header[148:156]) + 8 * ord(" "):
            break
        if header[156:157] == b"x" and size <= _LONGEST_PAX:
            found = _PAX_SIZE.search(file.read(at + _BLOCK, size))
            longer = int(found[1]) if found else None
        elif header[156:157] in (b"0", b"\0"):
            size = size if longer is None else longer
            longer = None
            start = at + _BLOCK
            parts.append(_Part(name=header[:100].rstrip(b"\0").decode("latin-1"), start=start, end=start + size))
        else:
            break
        at += _BLOCK + -(-size // _BLOCK) * _BLOCK
    return parts, False


def _octal(field: bytes) -> int | None:
    text = field.strip(b" \0")
    return int(text, 8) if text and not text.strip(b"01234567") else None


def _behind(file: MappedFile, listed: list[_Part]) -> int:
    """Count the bytes behind the last part that are not the archive's own padding, which is 10 KiB at most."""
    return max(file.size - max(part.end for part in listed) - 20 * _BLOCK, 0)


class _Storages:
    """The archive's part `storages`: where each lies, and what its key stands for in the other parts.

    Args:
        file: The archive.
        part: Where the part lies in it.
    """

    def __init__(self, file: MappedFile, part: _Part) -> None:
        self.machine = Machine(file.buffer, part.start)
        self.extents: dict[str, Extent] = {}
        self.references: dict[int, Persistent] = {}
        total = _count(_next(self.machine, file, part))
        for number in range(total):
            try:
                self._read_next(file, part)
            except FileError as error:
                if error.code is not Code.TRUNCATED:
                    raise
                raise truncated(file, f"inside its storages, of which {number:,} of {total:,} are whole") from None
        views = _next(self.machine, file, part)
        for view in views if isinstance(views, list) else ():
            self._add_view(view)

    def _read_next(self, file: MappedFile, part: _Part) -> None:
        key, location, kind = _fields(_next(self.machine, file, part), 3)
        at = self.machine.state.position
        (count,) = _numbers(file, part, at, "<q")
        reference = Persistent(("storage", kind, str(_number(key)), location, count))
        try:
            spec, _ = storage_of(reference)
        except (MalformedError, KeyError):
            raise _malformed(f"storage {key} has no element type that is known, or no size") from None
        start = at + 8
        _check_end(file, part, start + spec.nbytes)
        self.extents[spec.key] = Extent(start=start, nbytes=spec.nbytes)
        self.references[_number(key)] = reference
        self.machine.state.position = start + spec.nbytes

    def _add_view(self, view: Any) -> None:
        """Note a part of a storage, or of a part of one."""
        key, whole, first, numel = (_number(each) for each in _fields(view, 4))
        if whole not in self.references:
            raise _malformed(f"storage {key} is a part of {whole}, which is not in the file")
        tag, kind, root, location, count, *rest = self.references[whole].key
        before = rest[0][1] if rest else 0
        self.references[key] = Persistent((tag, kind, root, location, count, (str(key), before + first, numel)))


def _tensors(file: MappedFile, part: _Part, storages: dict[int, Persistent]) -> tuple[dict[int, Any], Machine]:
    """Read the archive's part `tensors`: what each key stands for, in the words of later formats."""
    machine = Machine(file.buffer, part.start)
    tensors: dict[int, Any] = {}
    for _ in range(_count(_next(machine, file, part))):
        key, storage, _ = _fields(_next(machine, file, part), 3)
        at = machine.state.position
        (dimensions,) = _numbers(file, part, at, "<i")
        if dimensions < 0:
            raise _malformed(f"tensor {key} has {dimensions} dimensions")
        numbers = _numbers(file, part, at + 8, f"<{2 * dimensions + 1}q")  # the count of dimensions takes 8 bytes
        sizes, strides, offset = numbers[:dimensions], numbers[dimensions:-1], numbers[-1]
        tensors[_number(key)] = Call(_REBUILD, (storages.get(_number(storage)), offset, sizes, strides))
        machine.state.position = at + 8 + 8 * len(numbers)
    return tensors, machine


def _machine(file: MappedFile, part: _Part, references: dict[int, Any]) -> Machine:
    def resolve(key: Any) -> Any:
        """Put a class in place of (class, file, source), and what was read in place of a key."""
        return key[0] if isinstance(key, tuple) else references.get(int(key)) or Persistent(key)

    return Machine(file.buffer, part.start, resolve)


def _next(machine: Machine, file: MappedFile, part: _Part) -> Any:
    try:
        value = machine.run()
    except FileError:
        if machine.is_cut:
            raise truncated(file, f"inside its part {part.name}") from None
        raise
    _check_end(file, part, machine.state.position)
    return value


def _check_end(file: MappedFile, part: _Part, end: int) -> None:
    if end > file.size:
        raise truncated(file, f"inside its part {part.name}")
    if end > part.end:
        raise _malformed(f"its part {part.name} goes on behind its own end")


def _numbers(file: MappedFile, part: _Part, at: int, layout: str) -> tuple[int, ...]:
    length = struct.calcsize(layout)
    _check_end(file, part, at + length)
    return struct.unpack(layout, file.read(at, length))


def _fields(value: Any, count: int) -> tuple[Any, ...]:
    if not isinstance(value, tuple) or len(value) != count:
        raise _malformed(f"an entry that should have {count} fields")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int):
        raise _malformed(f"{str(value)[:40]!r} where a number should stand")
    return value


def _count(value: Any) -> int:
    return max(_number(value), 0)


def _malformed(what: str) -> FileError:
    return FileError(Code.UNREADABLE, f"The legacy archive contradicts itself: {what}.", "Use an earlier checkpoint.")
