"""NumPy archives: a zip of `.npy` members, each a magic number, a header written as a Python literal, and elements.

Headers are matched by patterns and not given to Python's parser, which takes 40 ms for a hostile one of 10 kB.
"""

import re
import zlib
from dataclasses import dataclass, replace
from math import prod

from torchmend.facts.dtypes import DTYPES, DType
from torchmend.facts.errors import FileError
from torchmend.formats.contents import Contents, Extent, Import, Oddity, Record, StoredTensor, first_imports
from torchmend.formats.inflating import Inflated
from torchmend.formats.layout import Piece, duplicates, overlaps, unreferenced
from torchmend.formats.mapped import MappedFile
from torchmend.formats.pickles.arrays import NUMPY_KINDS
from torchmend.formats.pickles.machine import Machine
from torchmend.formats.pickles.specs import MalformedError, sizes
from torchmend.formats.torch_zip import gaps_between, longest_pickle
from torchmend.formats.zips import DEFLATED, STORED, Member, read_member

SUFFIX = ".npy"

_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 10_000
"""As NumPy's own reader has it."""

_MOST_DIMENSIONS = 64
"""As many as NumPy's arrays can have."""

_LONGEST_PREFIX = len(_MAGIC) + 2 + 4
_ENTRY = re.compile(
    r"""\s*['"](?P<key>descr|fortran_order|shape)['"]\s*:\s*"""
    r"""(?:['"](?P<text>[^'"]*)['"]|(?P<truth>True|False)|\((?P<sizes>[\dL,\s]*)\))\s*(?:,|(?=\}))"""
)
"""One of a header's three entries; Python 2 marked large sizes with an L."""

_RECORD = re.compile(r"""\s*['"]descr['"]\s*:\s*[\[(]""")
_DEFLATED_AHEAD = 1 << 16
"""Compressed bytes that are looked at to find a header in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """What stands before an array's elements.

    Args:
        descr: The element type, such as `<f4`; empty for a record of several fields.
        fortran: Whether the first axis runs fastest.
        shape: Sizes.
        length: Bytes from the member's start to the first element.
    """

    descr: str
    fortran: bool
    shape: tuple[int, ...]
    length: int

    @property
    def holds_texts(self) -> bool:
        """Whether the elements are texts, bytes or dates, which cannot be corrupt as numbers are."""
        return self.descr[1:2] in ("S", "U", "M", "m")

    @property
    def holds_objects(self) -> bool:
        """Whether the elements are pickled."""
        return self.descr[1:2] == "O"


def read(file: MappedFile, listed: list[Member]) -> Contents:
    """Read the headers of an archive's arrays.

    Args:
        file: The archive.
        listed: Its members.
    """
    tensors: list[StoredTensor] = []
    imports: list[Import] = []
    spare = 0
    arrays = [member for member in listed if member.name.endswith(SUFFIX)]
    inflated = Inflated(file, arrays)
    for member in arrays:
        name = member.name.removesuffix(SUFFIX)
        try:
            header = _read_header(_head(file, member))
        except MalformedError as error:
            tensors.append(_absent(name, f"it is no array of NumPy's: {error}"))
            continue
        if header.holds_texts:
            continue
        tensor = _tensor(name, header, member, inflated)
        tensors.append(tensor)
        if header.holds_objects:
            imports += _imports(file, member, header)
        elif tensor.extent is not None and not tensor.packed:
            spare += member.nbytes - header.length - tensor.extent.nbytes
    return Contents(
        files=(file,),
        format="npz",
        tensors=tuple(tensors),
        records=tuple(
            Record(name=m.name, extent=Extent(start=m.start, nbytes=m.nbytes), crc=m.crc, crc_at=m.crc_at)
            for m in listed
            if m.method == STORED and m.nbytes
        ),
        oddities=(*_oddities(listed, spare), *inflated.oddities),
        imports=first_imports(imports),
    )


def _oddities(listed: list[Member], spare: int) -> tuple[Oddity, ...]:
    return (
        *duplicates(member.name for member in listed),
        *overlaps(Piece(name=m.name, start=m.header, end=m.start + m.nbytes) for m in listed),
        *unreferenced((), (), gaps_between(listed) + spare),
    )


def _head(file: MappedFile, member: Member) -> bytes:
    """Return the first bytes of a member, inflated if need be."""
    length = _LONGEST_PREFIX + _LONGEST_HEADER
    if member.method == STORED:
        return file.read(member.start, min(member.nbytes, length))
    if member.method != DEFLATED:
        raise MalformedError(f"it is compressed by method {member.method}")
    try:
        start = file.read(member.start, min(member.nbytes, _DEFLATED_AHEAD))
        return zlib.decompressobj(-15).decompress(start, length)
    except zlib.error as error:
        raise MalformedError(f"it does not inflate ({error})") from None


def _read_header(head: bytes) -> _Header:
    """Read what stands before the elements: NumPy's format description, versions 1 to 3."""
    major = head[len(_MAGIC)] if head.startswith(_MAGIC) and len(head) > len(_MAGIC) else 0
    if major not in (1, 2, 3):
        raise MalformedError("it does not start like one")
    width = 2 if major == 1 else 4
    start = len(_MAGIC) + 2 + width
    end = start + int.from_bytes(head[start - width : start], "little")
    if end > start + _LONGEST_HEADER or end > len(head):
        raise MalformedError(f"its header claims {end - start:,} bytes")
    text = head[start:end].decode("utf-8" if major == 3 else "latin-1", "replace").strip()
    if _RECORD.match(text, 1):
        return _Header(descr="", fortran=False, shape=(), length=end)
    found = _entries(text)
    if found.keys() != {"descr", "fortran_order", "shape"}:
        raise MalformedError("its header cannot be understood")
    if found["shape"].count(",") > _MOST_DIMENSIONS:
        raise MalformedError(f"it claims {found['shape'].count(','):,} dimensions")
    shape = tuple(int(size[:20]) for size in re.findall(r"\d+", found["shape"]))
    return _Header(descr=found["descr"], fortran=found["fortran_order"] == "True", shape=sizes(shape), length=end)


def _entries(text: str) -> dict[str, str]:
    """Read the entries of a header's dictionary; none if it is anything else."""
    found: dict[str, str] = {}
    at = 1 if text[:1] == "{" else len(text)
    while entry := _ENTRY.match(text, at):
        kind = {"descr": "text", "fortran_order": "truth", "shape": "sizes"}[entry["key"]]
        if entry[kind] is None or entry["key"] in found:
            return {}
        found[entry["key"]] = entry[kind]
        at = entry.end()
    return found if text[at:].strip() == "}" else {}


def _tensor(name: str, header: _Header, member: Member, inflated: Inflated) -> StoredTensor:
    if header.holds_objects:
        return _absent(name, "its elements are pickled Python objects")
    if not header.descr:
        return _absent(name, "its elements are records of several fields")
    kind = NUMPY_KINDS.get(header.descr[1:])
    if kind is None or header.descr[0] not in "<>|=":
        return _absent(name, f"its element type {header.descr!r} is not known")
    if member.name in inflated.reasons:
        return _absent(name, inflated.reasons[member.name])
    dtype = DTYPES[kind]
    wanted = prod(header.shape) * dtype.itemsize
    tensor = StoredTensor(
        container="",
        name=name,
        dtype=dtype,
        shape=header.shape,
        strides=_strides(header),
        little_endian=header.descr[0] != ">",
    )
    if member.method != STORED:
        elements = inflated.views[member.name][header.length :][:wanted]
        extent = Extent(start=member.start, nbytes=member.nbytes)
        return replace(tensor, extent=extent, inline=elements, packed=member.name)
    length = min(wanted, member.nbytes - header.length)
    return replace(tensor, extent=Extent(start=member.start + header.length, nbytes=length))


def _strides(header: _Header) -> tuple[int, ...]:
    strides, step = [1] * len(header.shape), 1
    axes = range(len(header.shape))
    for axis in axes if header.fortran else reversed(axes):
        strides[axis] = step
        step *= max(header.shape[axis], 1)
    return tuple(strides)


def _absent(name: str, reason: str) -> StoredTensor:
    dtype: DType = DTYPES["uint8"]
    return StoredTensor(container="", name=name, dtype=dtype, shape=(), strides=(), absent=reason)


def _imports(file: MappedFile, member: Member, header: _Header) -> tuple[Import, ...]:
    """List what pickled elements want to import; they are only read as data, whatever they are."""
    try:
        machine = Machine(read_member(file, member, longest_pickle(file, member)), header.length)
    except FileError:
        return ()  # larger than any array of objects, or damaged
    try:
        machine.run()
    except FileError:
        pass  # what it wanted up to there counts
    return machine.imports(start=member.start if member.method == STORED else None, pickle=member.name)
