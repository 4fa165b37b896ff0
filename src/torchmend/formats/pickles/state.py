"""The state of a pickle that is being read: stream, stack, memo, and a budget of memory."""

import struct
from collections.abc import Callable
from typing import Any

from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.formats.mapped import Buffer
from torchmend.formats.pickles.records import Call, Global, OpaqueKey, Persistent, fetched, known_as

MOST_MEMORY = 4 << 30
"""Bytes, by estimate, that the objects of one pickle may take."""

LEAST_MEMORY, MEMORY_TIMES = 64 << 20, 48
"""Bytes that the objects of any pickle may take, and how many more for each byte of it; real ones take ten."""

LARGEST_KEY = 1 << 60
"""Whole numbers from here on share hashes when they are chosen to, and a dictionary of such keys takes for ever."""

MOST_MEMO = 1 << 32

OBJECT_COST = 160
"""Bytes that one container or record takes, estimated from above for CPython 3.11."""

MEMO_COST = 100
"""Bytes that one entry of the memo takes, while its table doubles."""

MARK = object()
"""Lies on the stack where a pickle has put a mark."""


class CutError(ValueError):
    """The pickle goes on beyond the end of the bytes."""


class State:
    """The stream, the stack and the memo of a pickle that is being read.

    Args:
        data: The bytes; what follows the pickle's end is left alone.
        start: Where the pickle begins.
        persistent: Turns what names something outside the pickle into what stands for it.
    """

    def __init__(self, data: Buffer, start: int = 0, persistent: Callable[[Any], Any] = Persistent) -> None:
        self.data = data
        self.persistent = persistent
        self.position = start
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.limit = min(MOST_MEMORY, LEAST_MEMORY + MEMORY_TIMES * (len(data) - start))
        self.budget = self.limit
        self.imports: dict[Global, int] = {}
        self.calls: dict[Global, Call] = {}

    def over_limit(self, what: str) -> FileError:
        """Make the error for a pickle that asks for too much."""
        return FileError(
            Code.UNREADABLE,
            f"The pickle inside asks for too much: {what}.",
            "No real checkpoint does; do not load this file with anything else either.",
        )

    def spend(self, nbytes: int) -> None:
        """Take memory from the budget."""
        self.budget -= nbytes
        if self.budget < 0:
            raise self.over_limit(f"objects of more than {self.limit >> 20:,} MiB")

    # Reading the stream

    def take(self, length: int) -> bytes:
        """Consume that many bytes."""
        end = self.position + length
        if end > len(self.data):
            raise CutError("claims more bytes than there are")
        if length < 0:
            raise ValueError("claims fewer bytes than none")
        chunk = self.data[self.position : end]
        self.position = end
        return chunk

    def number(self, layout: struct.Struct) -> Any:
        """Consume one number."""
        return layout.unpack(self.take(layout.size))[0]

    def line(self) -> bytes:
        """Consume up to and including the next newline; return it without."""
        end = self.data.find(b"\n", self.position)  # a mapped file has no `index`
        if end < 0:
            raise CutError("a line that does not end")
        text = self.data[self.position : end]
        self.position = end + 1
        return text

    # The stack

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def create(self, value: Any) -> None:
        """Put a new container or record on the stack, and account for it."""
        self.spend(OBJECT_COST)
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        """Remove and return everything above the topmost mark, and the mark."""
        stack = self.stack
        for at in range(len(stack) - 1, -1, -1):
            if stack[at] is MARK:
                values = stack[at + 1 :]
                del stack[at:]
                return values
        raise ValueError("no mark")

    def pop(self) -> Any:
        """Remove and return the topmost value, which must not be a mark."""
        value = self.stack.pop()
        if value is MARK:
            raise ValueError("a mark where a value is expected")
        return value

    # Building

    def extend(self, target: Any, values: list[Any]) -> None:
        """Carry out APPENDS and ADDITEMS."""
        self.spend(8 * len(values))
        if isinstance(target, Call):
            target.items = target.items or []
            target.items.extend(values)
        else:
            target.extend(values)

    def update(self, target: Any, values: list[Any]) -> None:
        """Carry out SETITEMS; later values win, as in Python."""
        self.spend(100 * len(values))
        if isinstance(target, Call):
            target.pairs = {} if target.pairs is None else target.pairs
            target = target.pairs
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[key if is_plain(key) else OpaqueKey(key)] = value

    def build(self, target: Any, state: Any) -> None:
        """Carry out BUILD: keep the state, apply nothing. On an import it would have changed the module itself."""
        if isinstance(target, Call):
            target.state = state
        elif isinstance(target, Global):
            self.imports.setdefault(Global(target.module, f"{target.name}.__dict__"), self.position - 1)

    def find(self, module: str, name: str, at: int) -> None:
        """Record an import; the place of the first opcode that asks for each name is kept for the report."""
        found = Global(module, name)
        self.create(found)
        self.imports.setdefault(found, at)

    def call(self, func: Any, args: Any) -> None:
        """Record a call; the first of each function is kept for the report."""
        self.construct(func, args)
        made = self.stack[-1]
        if (named := known_as(func)) is not None:
            self.calls.setdefault(named, made)
        made.fetched = fetched(func, args)
        if made.fetched is not None:
            self.spend(OBJECT_COST)
            self.imports.setdefault(made.fetched, self.position - 1)

    def construct(self, cls: Any, args: Any) -> None:
        """Record that an object was to be made without calling anything but its class."""
        self.create(Call(cls, args))


def is_plain(key: Any) -> bool:
    """Return whether a value may be the key of a dictionary here: hashing it runs nothing and takes no time."""
    if isinstance(key, int):
        return -LARGEST_KEY < key < LARGEST_KEY
    return key is None or isinstance(key, str | float | bytes)
