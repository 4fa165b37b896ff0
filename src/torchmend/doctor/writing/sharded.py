"""Write safetensors in several files with an index, as Hugging Face libraries read them."""

import json
import re
from collections.abc import Sequence
from typing import Any

from torchmend.doctor.writing.parcels import Parcel
from torchmend.facts.errors import UserError

INDEX = "model.safetensors.index.json"

_UNITS = {"": 1, **{unit: 1000**power for power, unit in enumerate(("b", "kb", "mb", "gb", "tb"))}}
_UNITS |= {unit: 1024**power for power, unit in enumerate(("kib", "mib", "gib", "tib"), start=1)}


def parse_size(text: str) -> int:
    """Read a number of bytes: `5GB` (units of 1000), `512MiB` (of 1024), `1000000`.

    Raises:
        UserError: It is none, or less than one byte.
    """
    found = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*([a-z]*)\s*", text.lower())
    nbytes = int(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else 0
    if nbytes < 1:
        raise UserError(f"{text!r} is no size. Write a number and a unit: 5GB, 512MiB, 1000000.")
    return nbytes


def split(parcels: Sequence[Parcel], most: int) -> list[tuple[str, list[Parcel]]]:
    """Share out tensors among files, in order, and name the files.

    Args:
        parcels: At least one.
        most: Bytes of tensors in one file; a tensor that is larger gets a file of its own.
    """
    shards: list[list[Parcel]] = []
    room = 0
    for parcel in parcels:
        if not shards or parcel.nbytes > room:
            shards.append([])
            room = most
        shards[-1].append(parcel)
        room -= parcel.nbytes
    count = len(shards)
    return [(f"model-{n:05}-of-{count:05}.safetensors", shard) for n, shard in enumerate(shards, start=1)]


def index(shards: Sequence[tuple[str, Sequence[Parcel]]]) -> bytes:
    """Return the JSON that says in which file each tensor is."""
    data: dict[str, Any] = {
        "metadata": {"total_size": sum(parcel.nbytes for _, shard in shards for parcel in shard)},
        "weight_map": {parcel.path: name for name, shard in shards for parcel in shard},
    }
    return json.dumps(data, indent=2, ensure_ascii=False).encode() + b"\n"
