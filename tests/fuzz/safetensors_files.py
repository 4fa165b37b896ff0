"""Safetensors files: headers whose entries are changed one by one."""

import json
from random import Random
from typing import Any

from fuzz import noise

DTYPES = ("F32", "F16", "BF16", "F64", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "C64", "X9", "", None, 7)


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Split a file that is in order into its header and its tensors."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header: str, body: bytes, length: int | None = None) -> bytes:
    """Write a file; `length` is what it says of its header."""
    raw = header.encode("utf-8", "surrogatepass")
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + body


def junk(rng: Random, depth: int = 0) -> Any:
    """Return some JSON."""
    if depth > 2 or rng.randrange(3):
        return rng.choice((None, True, -1, 0, 1.5, 1e308, noise.number(rng, 4), noise.text(rng), [], {}))
    if rng.randrange(2):
        return [junk(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {noise.text(rng): junk(rng, depth + 1) for _ in range(rng.randrange(4))}


def mutate(rng: Random, data: bytes) -> bytes:
    """Change entries of the header, its length, or what follows it."""
    header, body = parts(data)
    for _ in range(rng.randrange(1, 4)):
        names = [key for key in header if isinstance(header[key], dict)]
        if not names:
            break
        key = rng.choice(names)
        entry = header[key]
        match rng.randrange(9):
            case 0:
                header[noise.text(rng)] = dict(entry)
            case 1:
                entry["dtype"] = rng.choice(DTYPES)
            case 2:
                entry["shape"] = [noise.number(rng, 2) for _ in range(rng.choice((0, 1, 2, 3, 90)))]
            case 3:
                entry["data_offsets"] = [
                    rng.choice((0, noise.number(rng, 16))),
                    rng.choice((16, noise.number(rng, 64))),
                ]
            case 4:
                entry[rng.choice(("dtype", "shape", "data_offsets", "extra"))] = junk(rng)
            case 5:
                header[key] = junk(rng)
            case 6:
                header["__metadata__"] = junk(rng)
            case 7:
                header.pop(key)
            case _:
                header[key] = dict(header[rng.choice(names)])
    written = json.dumps(header)
    if not rng.randrange(6):
        written = noise.spoil(rng, written.encode()).decode("latin-1")
    if not rng.randrange(8):
        written = written[:-1] + "," + written[1:]  # every name twice
    if not rng.randrange(6):
        body = noise.spoil(rng, body)
    true = len(written.encode("utf-8", "surrogatepass"))
    return joined(written, body, None if rng.randrange(6) else noise.number(rng, true))
