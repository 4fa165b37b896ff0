"""Write the pickle of a torch file: dictionaries of tensors, and nothing else, in protocol 2.

The opcodes are documented in the standard library's `pickletools`; which calls stand for a tensor, in
`torch._utils` and `torch.serialization`.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Union

from torchmend.facts.dtypes import DType
from torchmend.formats.pickles.rebuild import STORAGES

_TYPED = {dtype: f"{prefix}Storage" for prefix, dtype in STORAGES.items()}
_MOST_MEMOS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A tensor as the pickle describes it.

    Args:
        key: Its storage's name, below `data/`.
        nbytes: The storage's size.
        dtype: The element type.
        offset: The first element's place in the storage, in elements.
        shape: Sizes.
        strides: In elements.
    """

    key: str
    nbytes: int
    dtype: DType
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


Tree = Mapping[str, Union[Described, "Tree"]]
"""Nested dictionaries of tensors."""


def pickled(tree: Tree) -> bytes:
    """Return the pickle of nested dictionaries of tensors, for `torch.load(weights_only=True)`."""
    stream = _Stream()
    stream.mapping(tree)
    return bytes(stream.data) + b"."


class _Stream:
    """The opcodes so far, and what has been remembered to be named again."""

    def __init__(self) -> None:
        self.data = bytearray(b"\x80\x02")
        self.memo: dict[bytes, int] = {}

    def mapping(self, tree: Tree) -> None:
        """Put a dictionary on the stack."""
        self.data += b"}("
        for name, value in tree.items():
            self.data += _text(name)
            if isinstance(value, Described):
                self.tensor(value)
            else:
                self.mapping(value)
        self.data += b"u"

    def tensor(self, tensor: Described) -> None:
        """Put the call that rebuilds a tensor on the stack."""
        typed = _TYPED.get(tensor.dtype.name)
        self.again(_name("torch._utils", "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3"))
        self.data += b"(("
        self.again(_text("storage"))
        self.again(_name("torch", typed) if typed else _name("torch.storage", "UntypedStorage"))
        self.data += _text(tensor.key)
        self.again(_text("cpu"))
        self.data += _integer(tensor.nbytes // tensor.dtype.itemsize if typed else tensor.nbytes) + b"tQ"
        self.data += _integer(tensor.offset) + _sizes(tensor.shape) + _sizes(tensor.strides)
        self.data += b"\x89"  # requires_grad: False
        self.again(_name("collections", "OrderedDict"))
        self.data += b")R"  # no hooks
        if not typed:
            self.again(_name("torch", tensor.dtype.name))
        self.data += b"tR"

    def again(self, opcode: bytes) -> None:
        """Put a constant on the stack that will be needed again: as it is once, then from the memo."""
        known = self.memo.get(opcode)
        if known is not None:
            self.data += b"h" + bytes([known])
            return
        number = len(self.memo)
        assert number < _MOST_MEMOS, "there are fewer constants than this"
        self.memo[opcode] = number
        self.data += opcode + b"q" + bytes([number])


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(value: int) -> bytes:
    if value < 1 << 8:
        return b"K" + bytes([value])
    if value < 1 << 16:
        return b"M" + struct.pack("<H", value)
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(raw)]) + raw


def _sizes(values: Sequence[int]) -> bytes:
    body = b"".join(map(_integer, values))
    if not values:
        return b")"
    if len(values) <= 3:
        return body + (b"\x85", b"\x86", b"\x87")[len(values) - 1]
    return b"(" + body + b"t"
