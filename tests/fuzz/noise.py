"""What is done to any bytes, and to any number in a header."""

from random import Random

WEIRD = (0, 1, 2, 3, 7, 8, 16, 63, 64, 65, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 1 << 16, 1 << 20,
         0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 32, (1 << 53) + 1, (1 << 63) - 1, 1 << 63,
         (1 << 64) - 1)  # fmt: skip

TEXTS = ("", "a", ".", "..", "a.b", "running_mean", "bn.running_var", "exp_avg", "../../../etc/passwd", "/etc/passwd",
         "\x1b[2J", "\n", "\x00", "\u202e", "é", "<script>alert(1)</script>", "|`*_[x](y)", "%s%n", "C:\\x", "." * 50,
         "x" * 300, "data/0", "state", "param_groups", "step", "lr", "module.", "_metadata")  # fmt: skip


def number(rng: Random, value: int, bits: int = 64) -> int:
    """Return a number near a true one, or one at a limit, that fits so many bits."""
    kind = rng.randrange(5)
    if kind == 0:
        value += rng.choice((-1, 1, -2, 2, -8, 8, 64, -64))
    elif kind == 1:
        value ^= 1 << rng.randrange(bits)
    elif kind == 2:
        value = rng.getrandbits(bits)
    else:
        value = rng.choice(WEIRD)
    return value % (1 << bits)


def text(rng: Random) -> str:
    """Return a name that may hurt somebody."""
    return rng.choice(TEXTS) if rng.randrange(8) else rng.choice(TEXTS) * rng.randrange(1, 40)


def spoil(rng: Random, data: bytes) -> bytes:
    """Change bytes without knowing what they mean."""
    buffer = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        if not buffer:
            return bytes(buffer)
        at = rng.randrange(len(buffer))
        length = min(rng.choice((1, 1, 2, 4, 8, 32)), len(buffer) - at)
        match rng.randrange(7):
            case 0:
                buffer[at] ^= 1 << rng.randrange(8)
            case 1:
                buffer[at] = rng.randrange(256)
            case 2:
                del buffer[at : at + length]
            case 3:
                buffer[at:at] = rng.randbytes(length)
            case 4:
                buffer[at : at + length] = rng.choice(WEIRD).to_bytes(8, "little")[:length].ljust(length, b"\0")
            case 5:
                source = rng.randrange(len(buffer))
                buffer[at:at] = buffer[source : source + length * 4]
            case _:
                del buffer[rng.randrange(len(buffer)) :]
    return bytes(buffer)
