"""Nested dictionaries -> containers and names: the same split for files and for live dictionaries."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import PureWindowsPath
from typing import Any

Path = tuple[str | int, ...]
"""Keys and indices from the root."""

LONGEST_TEXT = 200
"""Characters of metadata texts that are kept."""

LONGEST_COMPONENT = 1000
"""Characters of one key that are kept, and of a name in formats without levels; longer names there are refused."""

MOST_PARAMETERS = 200_000
"""Parameters of one optimizer that are told apart."""

LONGEST_NUMBER = 256
"""Bits of whole numbers that are kept; Python refuses to print very long ones."""


def joined(path: Path) -> str:
    """Write a path with dots."""
    return ".".join(map(str, path))


def component(key: object) -> str | int:
    """Return what a dictionary's key is called in a path."""
    if isinstance(key, int) and key.bit_length() > LONGEST_NUMBER:
        return "(unnamed)"
    if isinstance(key, bytes):
        key = key.decode("latin-1")
    if isinstance(key, str) and len(key) > LONGEST_COMPONENT:
        return f"{key[: LONGEST_COMPONENT - 3]}..."
    return key if isinstance(key, str | int) else str(key)


def split_paths(paths: Sequence[Path], wholes: Collection[Path]) -> list[tuple[str, str]]:
    """Split each tensor's path into the container that it stands in and its name there.

    A container is the outermost place that is an optimizer's state, a whole module, or a mapping at least
    half of whose tensors stand in it directly; failing all, the mapping around the tensor.

    Args:
        paths: Of every tensor, from the root.
        wholes: Places of optimizer states and whole modules.
    """
    places: dict[tuple[int, str | int], int] = {}  # every prefix is a number, so that none is hashed whole again
    direct: Counter[int] = Counter()
    total: Counter[int] = Counter()

    def chain(path: Path) -> list[int]:
        """Number every prefix of a path that is a place around it."""
        here, numbers = 0, [0]
        for key in path[:-1]:
            here = places.setdefault((here, key), len(places) + 1)
            numbers.append(here)
        return numbers[: len(path)]

    whole = {chain((*path, ""))[-1] for path in wholes}
    chains = [chain(path) for path in paths]
    for numbers in chains:
        total.update(numbers)
        direct.update(numbers[-1:])

    def depth_of_container(numbers: list[int]) -> int:
        for depth, here in enumerate(numbers):
            if here in whole or 2 * direct[here] >= total[here]:
                return depth
        return max(len(numbers) - 1, 0)

    depths = [depth_of_container(numbers) for numbers in chains]
    return [
        (joined(path[:depth]), joined(path[depth:]) or "(tensor)") for path, depth in zip(paths, depths, strict=True)
    ]


def parameter_keys(
    groups: Sequence[Any], name_of: Callable[[Any], str | int] = component
) -> tuple[tuple[str, str | None], ...]:
    """List an optimizer's parameters in the order of its `param_groups`: key in `state`, and name if known.

    Args:
        groups: The `param_groups` of an optimizer's state dict; what is no such group is passed over. One that lists
            the same parameters over and over tells nothing.
        name_of: Turns a key into a path component.
    """
    keys: list[tuple[str, str | None]] = []
    looked_at = 0
    for group in groups:
        if not isinstance(group, dict) or not isinstance(group.get("params"), list):
            continue
        params = group["params"]
        looked_at += len(params)
        if looked_at > MOST_PARAMETERS:
            return ()
        names = group.get("param_names")
        known = names if isinstance(names, list) and len(names) == len(params) else [None] * len(params)
        keys += [
            (str(name_of(key)), name if isinstance(name, str) else None)
            for key, name in zip(params, known, strict=True)
            if isinstance(key, str | int)
        ]
    return tuple(keys)


def is_inside(name: str) -> bool:
    """Return whether a relative path that a file names stays inside the folder that it is relative to.

    Backslashes and drive letters count as Windows would have them, wherever this runs.
    """
    path = PureWindowsPath(name)
    return bool(path.parts) and not path.anchor and ".." not in path.parts and "\0" not in name
