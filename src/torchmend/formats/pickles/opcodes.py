"""What each pickle opcode does to the state, with inert records in place of imports, calls and loads.

The opcodes' meanings are documented in the standard library's `pickletools`.
"""

import codecs
import struct
import warnings
from collections.abc import Callable
from typing import Any

from torchmend.formats.pickles.records import Persistent, PlacedFloat
from torchmend.formats.pickles.state import MARK, MEMO_COST, MOST_MEMO, State

STOP = object()
"""What the handler of the last opcode returns."""


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _decimal(raw: bytes) -> int:
    return int(raw.rstrip(b"L"))


def _quoted(raw: bytes) -> str:
    raw = raw.strip()
    if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in (b"'", b'"'):
        raise ValueError("a string without quotes")
    with warnings.catch_warnings():  # it warns of unknown escapes, which it leaves as they are
        warnings.simplefilter("ignore", DeprecationWarning)
        return codecs.escape_decode(raw[1:-1])[0].decode("latin-1")


_I8, _U1, _U2, _I4, _U4, _U8, _F8 = (struct.Struct(layout) for layout in ("<b", "<B", "<H", "<i", "<I", "<Q", ">d"))


def bind(m: State) -> dict[int, Callable[[], object]]:
    """Make the table of opcodes that work on one state."""
    handlers: dict[int, Callable[[], object]] = {}
    for group in (_constants(m), _numbers(m), _strings(m), _stack(m), _memo(m), _containers(m), _objects(m)):
        handlers.update({ord(opcode): handler for opcode, handler in group.items()})
    return handlers


_Group = dict[str, Callable[[], object]]


def _constants(m: State) -> _Group:
    def protocol() -> None:
        if m.number(_U1) > 5:
            raise ValueError("a protocol of the future")

    return {
        "\x80": protocol,
        "\x95": lambda: m.take(8),  # FRAME: only a hint for buffering
        ".": lambda: STOP,
        "N": lambda: m.push(None),
        "\x88": lambda: m.push(True),
        "\x89": lambda: m.push(False),
    }


def _numbers(m: State) -> _Group:
    def text_integer() -> None:
        raw = m.line()
        m.push(raw == b"01" if raw in (b"00", b"01") else _decimal(raw))

    def long(layout: struct.Struct) -> None:
        raw = m.take(m.number(layout))
        m.spend(len(raw))
        m.push(int.from_bytes(raw, "little", signed=True))

    def placed_float() -> None:
        m.push(PlacedFloat(m.number(_F8), m.position - _F8.size))

    return {
        "I": text_integer,
        "L": lambda: m.push(_decimal(m.line())),
        "F": lambda: m.push(float(m.line())),
        "G": placed_float,
        "J": lambda: m.push(m.number(_I4)),
        "K": lambda: m.push(m.number(_U1)),
        "M": lambda: m.push(m.number(_U2)),
        "\x8a": lambda: long(_U1),
        "\x8b": lambda: long(_I4),
    }


def _strings(m: State) -> _Group:
    def counted(layout: struct.Struct, convert: Callable[[bytes], Any]) -> Callable[[], None]:
        def handler() -> None:
            length = m.number(layout)
            m.spend(60 + min(max(length, 0), len(m.data)))  # first: a mapped file may be larger than memory
            m.push(convert(m.take(length)))

        return handler

    def latin(raw: bytes) -> str:
        return raw.decode("latin-1")

    return {
        "S": lambda: m.push(_quoted(m.line())),
        "V": lambda: m.push(m.line().decode("raw-unicode-escape")),
        "T": counted(_I4, latin),
        "U": counted(_U1, latin),
        "X": counted(_U4, _text),
        "\x8c": counted(_U1, _text),
        "\x8d": counted(_U8, _text),
        "B": counted(_U4, bytes),
        "C": counted(_U1, bytes),
        "\x8e": counted(_U8, bytes),
        "\x96": counted(_U8, bytes),  # BYTEARRAY8: never changed here, so bytes will do
    }


def _stack(m: State) -> _Group:
    return {
        "(": lambda: m.push(MARK),
        "0": m.stack.pop,
        "1": m.since_mark,
        "2": lambda: m.push(m.stack[-1]),
    }


def _memo(m: State) -> _Group:
    def put(key: int) -> None:
        if not 0 <= key < MOST_MEMO:
            raise ValueError("a memo key that no pickler writes")
        m.spend(MEMO_COST)
        m.memo[key] = m.stack[-1]

    return {
        "p": lambda: put(_decimal(m.line())),
        "q": lambda: put(m.number(_U1)),
        "r": lambda: put(m.number(_U4)),
        "\x94": lambda: put(len(m.memo)),
        "g": lambda: m.push(m.memo[_decimal(m.line())]),
        "h": lambda: m.push(m.memo[m.number(_U1)]),
        "j": lambda: m.push(m.memo[m.number(_U4)]),
    }


def _containers(m: State) -> _Group:
    def pair(count: int) -> Callable[[], None]:
        def handler() -> None:
            values = [m.pop() for _ in range(count)]
            m.create(tuple(reversed(values)))

        return handler

    def filled_dict() -> None:
        values = m.since_mark()
        m.create({})
        m.update(m.stack[-1], values)

    def append() -> None:
        value = m.pop()
        m.extend(m.stack[-1], [value])

    def set_item() -> None:
        value, key = m.pop(), m.pop()
        m.update(m.stack[-1], [key, value])

    def many(apply: Callable[[Any, list[Any]], None]) -> Callable[[], None]:
        def handler() -> None:
            values = m.since_mark()
            apply(m.stack[-1], values)

        return handler

    return {
        ")": lambda: m.push(()),
        "\x85": pair(1),
        "\x86": pair(2),
        "\x87": pair(3),
        "t": lambda: m.create(tuple(m.since_mark())),
        "]": lambda: m.create([]),
        "l": lambda: m.create(m.since_mark()),
        "}": lambda: m.create({}),
        "d": filled_dict,
        "\x8f": lambda: m.create([]),  # EMPTY_SET: order does not matter to us, hashing might
        "\x91": lambda: m.create(m.since_mark()),
        "a": append,
        "e": many(m.extend),
        "\x90": many(m.extend),
        "s": set_item,
        "u": many(m.update),
    }


def _objects(m: State) -> _Group:
    def named() -> None:
        at = m.position - 1
        m.find(_text(m.line()), _text(m.line()), at)

    def stack_global() -> None:
        name, module = m.pop(), m.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name that is not text")
        m.find(module, name, m.position - 1)

    def extension(layout: struct.Struct) -> Callable[[], None]:
        def handler() -> None:
            at = m.position - 1
            m.find("copyreg", f"extension {m.number(layout)}", at)

        return handler

    def instance() -> None:
        named()
        target = m.pop()
        m.call(target, tuple(m.since_mark()))

    def marked_object() -> None:
        target, *args = m.since_mark()
        m.call(target, tuple(args))

    def reduce() -> None:
        args, func = m.pop(), m.pop()
        m.call(func, args)

    def new() -> None:
        args, target = m.pop(), m.pop()
        m.construct(target, args)

    def new_with_keywords() -> None:
        keywords, args, target = m.pop(), m.pop(), m.pop()
        m.construct(target, args)
        m.stack[-1].state = keywords

    def build() -> None:
        state = m.pop()
        m.build(m.stack[-1], state)

    return {
        "c": named,
        "\x93": stack_global,
        "\x82": extension(_U1),
        "\x83": extension(_U2),
        "\x84": extension(_I4),
        "i": instance,
        "o": marked_object,
        "R": reduce,
        "\x81": new,
        "\x92": new_with_keywords,
        "b": build,
        "P": lambda: m.create(m.persistent(_text(m.line()))),
        "Q": lambda: m.create(m.persistent(m.pop())),
        "\x97": lambda: m.create(Persistent("out-of-band buffer")),
        "\x98": lambda: None,
    }
