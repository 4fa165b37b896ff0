"""Sharded checkpoints as Hugging Face libraries write them: an index, in JSON, and a file for each shard."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchmend.facts.codes import Code
from torchmend.facts.dtypes import DTYPES
from torchmend.facts.errors import FileError
from torchmend.formats.contents import Contents, Oddity, StoredTensor
from torchmend.formats.folders import Part, inside, joined_contents
from torchmend.formats.protocols import Claim, ReadFile

LARGEST_INDEX = 100_000_000
"""Bytes; an index of a million tensors is smaller."""


def claims(folder: Path) -> list[Claim]:
    """List the indexes in a folder."""
    found = []
    for path in sorted(folder.glob("*.json")):
        weight_map = _weight_map(path)
        if weight_map is not None:
            shards = {folder / name for name in weight_map.values()}
            found.append(Claim(path=path, files=frozenset({path, *shards})))
    return found


def _weight_map(path: Path) -> dict[str, str] | None:
    """Return which tensor is in which shard; None if the file is no index."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_INDEX:
            return None
        text = path.read_bytes()
        data: Any = json.loads(str(text, "utf-8")) if b'"weight_map"' in text else None
    except (OSError, ValueError, RecursionError):
        return None
    weight_map = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        return None
    return weight_map


def read(path: Path, read_file: ReadFile) -> Contents:
    """Read the index and the structure of every shard that it names.

    A shard that is missing or cannot be read leaves its tensors without bytes; the others are there.

    Raises:
        FileError: The index names files outside its folder, or none of its shards can be read.
    """
    weight_map = _weight_map(path)
    assert weight_map is not None, f"{path} is no index, and nobody should have claimed it"
    shards = {name: inside(path.parent, name, path.name) for name in dict.fromkeys(weight_map.values())}
    parts: dict[str, Contents] = {}
    problems: dict[str, str] = {}
    for name, shard in shards.items():
        try:
            parts[name] = read_file(shard)
        except FileError as error:
            problems[name] = f"its shard {name} cannot be read: {error.message}"
    if not parts:
        raise FileError(
            Code.UNREADABLE,
            f"None of the {len(shards):,} shards can be read; {next(iter(problems.values()), 'there are none')}",
            "Fetch the missing files, or use an earlier checkpoint.",
        )
    whole = joined_contents(
        [Part(contents=contents) for contents in parts.values()], format=_format(parts), folder=path.parent
    )
    return _checked(whole, weight_map, parts, problems)


def _format(parts: Mapping[str, Contents]) -> str:
    kinds = sorted({contents.format for contents in parts.values()})
    return f"sharded {' and '.join(kinds)}"


def _checked(
    whole: Contents, weight_map: Mapping[str, str], parts: Mapping[str, Contents], problems: Mapping[str, str]
) -> Contents:
    """Add what the index promises and the shards do not hold, and note what they hold besides."""
    held = {
        name: {f"{t.container}.{t.name}" if t.container else t.name for t in contents.tensors}
        for name, contents in parts.items()
    }
    absent = [
        (tensor, problems.get(shard) or f"its shard {shard} does not hold it")
        for tensor, shard in weight_map.items()
        if shard in problems or tensor not in held[shard]
    ]
    extra = [name for shard, names in held.items() for name in sorted(names) if weight_map.get(name) != shard]
    more = f" and {len(extra) - 1:,} more" if len(extra) > 1 else ""
    oddities = [Oddity(code=Code.UNREFERENCED, detail=f"the index does not name {extra[0]}{more}")] if extra else []
    tensors = [
        StoredTensor(container="", name=name, dtype=DTYPES["uint8"], shape=(), strides=(), absent=reason)
        for name, reason in absent
    ]
    return replace(whole, tensors=(*whole.tensors, *tensors), oddities=(*whole.oddities, *oddities))
