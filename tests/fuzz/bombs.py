"""Small files that cost much, if a reader lets them: memory, time, or depth for few bytes."""

import json
import struct
import zlib
from collections.abc import Callable
from random import Random

from fuzz import pickles, zips
from fuzz.sandbox import Case

LARGEST = 1_000_000
"""Bytes of a file, about."""

GLOBAL = pickles.name
KEYS = b"}\x94(", b"u."


def _archive(pickled: bytes, *, method: int = 0, storage: int = 64) -> Case:
    entries = [zips.Entry("a/data.pkl", b"\x80\x04" + pickled, method), zips.Entry("a/data/0", bytes(storage))]
    return Case({"case.pth": zips.write(entries, lambda value, bits: value % (1 << bits))}, "case.pth")


def _tensor(shape: bytes = b"K\x02\x85", strides: bytes = b"K\x01\x85", offset: int = 0, storage: int = 16) -> bytes:
    reference = b"(" + pickles.text("storage") + GLOBAL("torch FloatStorage") + pickles.text("0") + pickles.text("cpu")
    reference += pickles.integer(storage) + b"tQ"
    rest = pickles.integer(offset) + shape + strides + b"\x89}"
    return GLOBAL("torch._utils _rebuild_tensor_v2") + b"(" + reference + rest + b"tR"


def _repeated(unit: bytes, size: int, start: bytes = b"", end: bytes = b".") -> Case:
    return _archive(start + unit * (size // len(unit)) + end)


def opcodes(rng: Random, size: int) -> Case:
    """Repeat one opcode or two."""
    start, unit = rng.choice((
        (b"", b"]"), (b"", b"}"), (b"", b"\x8f"), (b"N", b"\x94"), (b"N", b"2"), (b"", b"\x97"), (b"N", b"Q"), (b"N",
        b"2R"),
        (b"N", b"2\x81"), (b"", b"}\x94"), (b"N", b"\x85"), (b"", b"("), (b"", b"(t"), (b"", b"(l"), (b"", b"(d"),
        (b"", b"G\x7f\xf8\0\0\0\0\0\0"), (b"", b"K\xff"), (b"", b"\x88"), (b"", b"\x82\x01"), (b"", b"cos\nf\n"),
        (b"cbuiltins\ngetattr\n\x94\x8c\x02nn\x94ctorch\nnn\n", b"\x940h\x00h\x02h\x01\x86R"), (b"]\x94",
        b"h\x00h\x00a0"),
        (b"", b"(t\x94"), (b"", b"I1\n"), (b"", b"\x8c\x01a\x94"), (b"]", b"]a"), (b"}", b"K\x01}s"),
    ))  # fmt: skip
    return _repeated(unit, size, start)


def items(rng: Random, size: int) -> Case:
    """Fill a list, below many others, with very many small things."""
    depth = rng.choice((0, 1, 20, 99, 399))
    unit = rng.choice(
        (b"N", b"\x88", b"K\x07", b"]", b")", b"}", b"G\x7f\xf8\0\0\0\0\0\0", b"\x8c\x01a", b"h\x00", b"I9\n")
    )
    start = b"N\x940" if unit != b"h\x00" else _tensor() + b"\x940"
    return _archive(start + b"]" * (depth + 1) + b"(" + unit * (size // len(unit)) + b"e" + b"a" * depth + b".")


def aliases(rng: Random, size: int) -> Case:
    """Name one tensor, array, or number very often."""
    made = rng.choice(
        (_tensor(), pickles.array(rng), GLOBAL("torch._utils _rebuild_parameter") + b"(" + _tensor() + b"\x88NtR")
    )
    return _archive(made + b"\x940](" + b"h\x00" * (size // 2) + b"e.")


def tensors(rng: Random, size: int) -> Case:
    """Describe as many tensors as fit, each anew."""
    views = rng.randrange(2)
    units, total = [], 0
    while total < size:
        at = len(units)
        offset = at % 13 if views else 0
        units.append(pickles.text(rng.choice(("a", "bn.running_mean", "x.")) + str(at)) + _tensor(offset=offset))
        total += len(units[-1])
    return _archive(b"}(" + b"".join(units) + b"u.")


def overlapping(rng: Random, size: int) -> Case:
    """Have many views that visit a large storage over and over."""
    storage = size // 2
    floats = storage // 4
    kind = rng.randrange(3)
    units, total, at = [], 0, 0
    while total < size // 2:
        long = pickles.integer(floats - 4096 - at)
        shape, strides = (
            (long + b"\x85", b"K\x01\x85"),
            (long + pickles.integer(rng.choice((32, 60))) + b"\x86", b"K\x01K\x01\x86"),
            (pickles.integer(1 << 20) + long + b"\x86", b"K\x00K\x01\x86"),
        )[kind]
        units.append(pickles.text(str(at)) + _tensor(shape, strides, at, floats))
        total += len(units[-1])
        at += 1
    return _archive(b"}(" + b"".join(units) + b"u.", storage=storage)


def long_names(rng: Random, size: int) -> Case:
    """Give a tensor a name that is all dots, wrappers, digits, or one long word."""
    unit = rng.choice(
        (".", "a.", "module.", "0", "_", "running_mean.", "ema.", "model_", "a", "\x1b", "state.", "layers.0.")
    )
    leaf = rng.choice(("", "running_mean", "running_var", "exp_avg", "weight"))
    name = unit * (size // len(unit)) + leaf
    other = name.replace("running_mean", "running_var")
    return _archive(
        b"}(" + pickles.text(name) + _tensor() + (pickles.text(other) + _tensor() if other != name else b"") + b"u."
    )


def long_keys(rng: Random, size: int) -> Case:
    """Use one long text as a key at every level of a deep nest with many tensors at its end."""
    depth = rng.choice((1, 5, 50, 300))
    key = pickles.text("k" * (size // 2))
    body = b"".join(b"h\x00}" for _ in range(depth))
    many = b"h\x01" * min(size // 8, rng.choice((100, 10_000)))
    inside = b"h\x00](" + many + b"es"
    return _archive(key + b"\x940" + _tensor() + b"\x940}" + body + inside + b"s" * depth + b".")


def colliding_keys(rng: Random, size: int) -> Case:
    """Use keys whose hashes are all the same."""
    prime = (1 << 61) - 1
    units = (pickles.integer(prime * at) + b"N" for at in range(1, size // 14))
    if rng.randrange(2):
        return _archive(b"}(" + b"".join(units) + b"u.")
    return _archive(b"N" + b"".join(b"p%d\n" % (prime * at) for at in range(1, size // 24)) + b".")


def dimensions(rng: Random, size: int) -> Case:
    """Give a tensor very many dimensions."""
    one = pickles.integer((1 << 62) + 1) if rng.randrange(2) else b"K\x01"
    numbers = b"(" + one * (size // 2 // len(one)) + b"t"
    return _archive(_tensor(numbers, numbers) + b".")


def inflated(rng: Random, size: int) -> Case:
    """Compress a pickle that is a thousand times as long."""
    unit = rng.choice((b"]", b"}", b"N", b"]\x94", b"(t", b"K\x01", b"\x88", b"\x8c\x00"))
    return _archive(unit * (min(size * 400, 300_000_000) // len(unit)) + b".", method=8)


def optimizers(rng: Random, size: int) -> Case:
    """Give an optimizer very many parameters, or groups."""
    number = size // 8
    text = pickles.text
    parameters = b"](" + rng.choice((b"K\x01", b"\x8c\x01a", b"]")) * number + b"e"
    group = b"}(" + text("params") + parameters + text("lr") + b"G\x7f\xf8\0\0\0\0\0\0u"
    groups = b"](" + group + b"\x94" + b"h\x00" * rng.choice((0, number)) + b"e"
    state = (
        b"}("
        + b"".join(pickles.integer(at) + b"}(" + text("exp_avg") + _tensor() + b"u" for at in range(number // 60))
        + b"u"
    )
    return _archive(b"}(" + text("param_groups") + groups + text("state") + state + b"u.")


def texts(rng: Random, size: int) -> Case:
    """Write numbers and texts that are long."""
    digits = rng.choice((b"9" * 4000, b"9" * size, b"1" * 100))
    unit = rng.choice((b"I" + digits + b"\n", b"L" + digits + b"L\n", b"F" + digits + b"\n",
        b"V" + b"\\u00e9" * 999 + b"\n",
                       b"S'" + b"\\x41" * 999 + b"'\n", b"\x8b" + struct.pack("<i",
                       9999) + b"\xff" * 9999))  # fmt: skip
    return _archive(b"](" + unit * max(size // len(unit), 1) + b"e.")


def members(rng: Random, size: int) -> Case:
    """List very many members, of the same bytes where they can be."""
    number = size // 130
    same = rng.randrange(2)
    entries = [zips.Entry("a/data.pkl", b"\x80\x02}.")]
    entries += [zips.Entry("a/data/0" if same else f"a/data/{at}", b"abcd") for at in range(number)]
    return Case({"case.pth": zips.write(entries, lambda value, bits: value % (1 << bits), zip64_end=True)}, "case.pth")


def quoted(rng: Random, size: int) -> Case:
    """List one large member under very many names, so that each of its bytes is claimed very often."""
    payload = bytes(size // 2)
    plain = zips.write(
        [zips.Entry("a/data.pkl", b"\x80\x02}."), zips.Entry("a/data/0", payload)], lambda v, b: v % (1 << b)
    )
    start, header = plain.index(b"PK\x01\x02"), plain.index(b"a/data/0") - 30
    crc, body, count = zlib.crc32(payload), bytearray(plain[start : plain.rindex(b"PK\x01\x02")]), 1
    while len(body) < size // 2:
        name = f"a/data/{count}".encode()
        body += b"PK\x01\x02" + struct.pack(
            "<6H3L5HLL", 45, 45, 0, 0, 0, 0, crc, len(payload), len(payload), len(name), 0, 0, 0, 0, 0, header
        )
        body += name
        count += 1
    end = b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, count, count, len(body), start, 0)
    return Case({"case.pth": plain[:start] + bytes(body) + end}, "case.pth")


def headers(rng: Random, size: int) -> Case:
    """Write a safetensors header that is deep, long, or has very many entries."""
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    kind = rng.randrange(6)
    if kind == 0:
        header = "{" + ",".join(f'"{at}":{json.dumps(entry)}' for at in range(size // 70)) + "}"
    elif kind == 1:
        header = '{"a":' + "[" * (size // 2) + "]" * (size // 2) + "}"
    elif kind == 2:
        header = json.dumps({"a": {**entry, "shape": [rng.choice((1, (1 << 63) - 1))] * (size // 21)}})
    elif kind == 3:
        header = json.dumps({"." * size: entry, "__metadata__": {str(at): "" for at in range(9)}})
    elif kind == 4:
        header = json.dumps({"__metadata__": {str(at): "" for at in range(size // 15)}})
    else:
        header = '{"a":' + "9" * size + "}"
    return Case({"case.safetensors": struct.pack("<Q", len(header)) + header.encode() + bytes(16)}, "case.safetensors")


BOMBS: tuple[Callable[[Random, int], Case], ...] = (
    opcodes, items, aliases, tensors, overlapping, long_names, long_keys, colliding_keys, dimensions, inflated,
    optimizers, texts, members, quoted, headers,
)  # fmt: skip


def make(rng: Random) -> Case:
    """Make any of them, of any size."""
    return rng.choice(BOMBS)(rng, rng.choice((1_000, 30_000, 200_000, LARGEST - 50_000)))
