"""Pickles: built opcode by opcode, and real ones whose opcodes are changed."""

import pickletools
import struct
from collections.abc import Callable
from random import Random

from fuzz import noise

NAMES = (
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state",
    "torch._utils _rebuild_sparse_tensor",
    "torch._utils _rebuild_sparse_csr_tensor", "torch._utils _rebuild_qtensor", "torch._utils _rebuild_nested_tensor",
    "torch._utils _rebuild_wrapper_subclass", "torch._utils _rebuild_meta_tensor_no_storage",
    "torch._utils _rebuild_device_tensor_from_numpy", "torch._tensor _rebuild_from_type_v2", "torch Size",
    "torch device",
    "torch.nn.modules.batchnorm BatchNorm2d", "torch FloatStorage", "torch HalfStorage", "torch BFloat16Storage",
    "torch ComplexFloatStorage", "torch.storage UntypedStorage", "torch float8_e4m3fn", "torch float32", "torch uint16",
    "torch.serialization _get_layout", "numpy.core.multiarray _reconstruct", "numpy._core.multiarray scalar",
    "numpy._core.numeric _frombuffer", "numpy dtype", "numpy ndarray", "_codecs encode", "collections OrderedDict",
    "builtins set", "builtins getattr", "builtins eval", "os system", "posix system", "subprocess Popen",
    "torch os.system",
    "copyreg _reconstructor", "operator attrgetter", "argparse Namespace", "antigravity fly", "this s",
    "my.project Config",
)  # fmt: skip

OPCODES = [opcode for opcode in pickletools.opcodes if opcode.code != "."]


def text(value: str) -> bytes:
    """Assemble a text."""
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    """Assemble a whole number."""
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(dotted: str) -> bytes:
    """Assemble an import."""
    module, _, attribute = dotted.partition(" ")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def storage(rng: Random) -> bytes:
    """Assemble a reference to a storage."""
    kind = name(rng.choice([n for n in NAMES if "Storage" in n]))
    length = rng.choice((1, 4, 16, 64, noise.number(rng, 16)))
    return b"(" + text("storage") + kind + text(str(rng.randrange(4))) + text("cpu") + integer(length) + b"tQ"


def sizes(rng: Random) -> tuple[list[int], list[int]]:
    """Return a shape and strides; mostly of a small tensor, sometimes absurd."""
    shape = [rng.choice((1, 2, 3, 4, 8)) for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 4)))]
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    while not rng.randrange(4) and shape:
        axis = rng.randrange(len(shape))
        if rng.randrange(2):
            shape[axis] = noise.number(rng, shape[axis])
        else:
            strides[axis] = rng.choice((0, noise.number(rng, strides[axis])))
    if not rng.randrange(40):
        shape, strides = shape * rng.randrange(1, 99), strides * rng.randrange(1, 99)
    return shape, strides


def tensor(rng: Random) -> bytes:
    """Assemble a tensor as torch does."""
    shape, strides = sizes(rng)
    offset = rng.choice((0, 0, 1, noise.number(rng, 0)))
    numbers = [b"(" + b"".join(map(integer, each)) + b"t" for each in (shape, strides)]
    body = storage(rng) + integer(offset) + numbers[0] + numbers[1] + b"\x89" + name("collections OrderedDict") + b")R"
    made = name(rng.choice(NAMES[:3])) + b"(" + body + (name("torch float32") if not rng.randrange(5) else b"") + b"tR"
    return made if rng.randrange(4) else name("torch._utils _rebuild_parameter") + b"(" + made + b"\x88N" + b"tR"


def array(rng: Random) -> bytes:
    """Assemble a numpy array or scalar."""
    kind = rng.choice(("f4", "f8", "f2", "i8", "c8", "b1", "O8", "U3", "V8"))
    dtype = (
        name("numpy dtype")
        + b"("
        + text(kind)
        + b"\x89\x88tR"
        + b"(K\x03"
        + text(rng.choice("<>|"))
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    raw = rng.randbytes(rng.choice((0, 4, 8, 16)))
    content = name("_codecs encode") + b"(" + text(raw.decode("latin-1")) + text("latin1") + b"tR"
    if rng.randrange(2):
        return name("numpy._core.multiarray scalar") + b"(" + dtype + content + b"tR"
    start = name("numpy.core.multiarray _reconstruct") + b"(" + name("numpy ndarray") + b"K\x00\x85" + content + b"tR"
    return start + b"(K\x01" + integer(rng.choice((1, 2, 4))) + b"\x85" + dtype + b"\x89" + content + b"tb"


def anything(rng: Random, depth: int = 0) -> bytes:
    """Assemble a value such as checkpoints hold, with ill ones among them."""
    makers: tuple[Callable[[], bytes], ...] = (
        lambda: integer(noise.number(rng, 5, rng.choice((8, 32, 62)))),
        lambda: b"G" + rng.choice((struct.pack(">d", rng.random()), b"\x7f\xf8" + bytes(6), b"\x7f\xf0" + bytes(6))),
        lambda: text(noise.text(rng)),
        lambda: rng.choice((b"N", b"\x88", b"\x89", b")", b"]", b"}")),
        lambda: tensor(rng),
        lambda: tensor(rng),
        lambda: array(rng),
        lambda: name(rng.choice(NAMES)),
        lambda: name(rng.choice(NAMES)) + b"(" + _several(rng, depth) + b"tR",
        lambda: name(rng.choice(NAMES)) + b"(" + _several(rng, depth) + b"tR" + mapping(rng, depth) + b"b",
        lambda: b"]\x94(" + _several(rng, depth) + b"e",
        lambda: b"(" + _several(rng, depth) + b"t",
        lambda: mapping(rng, depth),
        lambda: mapping(rng, depth),
        lambda: b"h" + bytes([rng.randrange(4)]),
    )
    return rng.choice(makers[:8] if depth > 3 else makers)()


def _several(rng: Random, depth: int) -> bytes:
    return b"".join(anything(rng, depth + 1) for _ in range(rng.randrange(4)))


def mapping(rng: Random, depth: int) -> bytes:
    """Assemble a dictionary; its keys are those by which torchmend knows things."""
    keys = ("weight", "bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked", "state", "param_groups",
            "exp_avg", "exp_avg_sq", "step", "lr", "params", "_parameters", "_buffers", "_modules", "scale", "ema",
            "best_loss", "state_dict", "optimizer")  # fmt: skip
    body = b""
    for _ in range(rng.randrange(6)):
        key = (
            text(rng.choice(keys))
            if rng.randrange(5)
            else rng.choice((text(noise.text(rng)), integer(rng.randrange(9)), b"N", b")"))
        )
        body += key + anything(rng, depth + 1)
    return b"}\x94(" + body + b"u"


def build(rng: Random) -> bytes:
    """Build a pickle of one value."""
    return b"\x80" + bytes([rng.choice((2, 2, 2, 3, 4, 5))]) + mapping(rng, 0) + b"."


def babble(rng: Random) -> bytes:
    """String opcodes together with arguments that fit them and a stack that seldom does."""
    return b"\x80\x04" + b"".join(opcode(rng) for _ in range(rng.randrange(1, 60))) + b"."


def opcode(rng: Random) -> bytes:
    """Write one opcode with an argument."""
    kind = rng.choice(OPCODES)
    code = kind.code.encode("latin-1")
    if kind.arg is None:
        return code
    raw = rng.choice((b"", b"a", b"0", b"storage", rng.randbytes(3)))
    match kind.arg.name:
        case "stringnl_noescape_pair":
            return name(rng.choice(NAMES)) if code == b"c" else b"i" + name(rng.choice(NAMES))[1:]
        case "stringnl":
            return code + repr(noise.text(rng)).encode("ascii", "backslashreplace") + b"\n"
        case "decimalnl_short" | "decimalnl_long":
            return code + str(rng.choice((0, 1, 2, noise.number(rng, 1)))).encode() + b"\n"
        case "floatnl":
            return code + rng.choice((b"1.5", b"nan", b"-inf", b"1e999", b"x")) + b"\n"
        case _ if kind.arg.n >= 0:
            return (
                code
                + rng.choice((bytes(kind.arg.n), b"\x01" + bytes(kind.arg.n), rng.randbytes(kind.arg.n)))[: kind.arg.n]
            )
        case _:
            width = {-2: 1, -3: 4, -4: 4, -5: 8}.get(kind.arg.n, 0)
            if not width:
                return code + raw.replace(b"\n", b"") + b"\n"
            stated = len(raw) if rng.randrange(6) else noise.number(rng, len(raw), 8 * width)
            return code + stated.to_bytes(width, "little") + raw


def mutate(rng: Random, pickled: bytes) -> bytes:
    """Change the opcodes of a real pickle: drop, repeat, swap, replace, insert, or change an argument."""
    try:
        ends = [at for _, _, at in pickletools.genops(pickled) if at is not None]
    except ValueError:
        return noise.spoil(rng, pickled)
    ops = [pickled[start:end] for start, end in zip(ends, [*ends[1:], len(pickled)], strict=True)]
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(ops))
        span = rng.choice((1, 1, 1, 2, 5, 20))
        match rng.randrange(8):
            case 0:
                del ops[at : at + span]
            case 1:
                ops[at:at] = ops[at : at + span] * rng.choice((1, 1, 2, 10))
            case 2:
                other = rng.randrange(len(ops))
                ops[at], ops[other] = ops[other], ops[at]
            case 3:
                ops[at] = opcode(rng)
            case 4:
                ops.insert(at, opcode(rng))
            case 5:
                ops[at] = anything(rng, 2)
            case 6:
                ops[at] = ops[at][:1] + noise.spoil(rng, ops[at][1:])
            case _:
                numbers = [i for i, op in enumerate(ops) if op[:1] in (b"K", b"M", b"J")]
                if numbers:
                    ops[rng.choice(numbers)] = integer(noise.number(rng, 4, 62))
        if not ops:
            return b"."
    return b"".join(ops)
