"""Nested dictionaries -> containers and names: the same split for files and for live dictionaries."""

from collections.abc import Callable, Collection, Sequence
from pathlib import PureWindowsPath
from typing import Any

Path = tuple[str | int, ...]
"""Keys and indices from the root."""

LONGEST_TEXT = 200
"""Characters of metadata texts that are kept."""

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
        return key.decode("latin-1")
    return key if isinstance(key, str | int) else str(key)


def split_paths(paths: Sequence[Path], wholes: Collection[Path]) -> list[tuple[str, str]]:
    """Split each tensor's path into the container that it stands in and its name there.

    A container is the outermost place that is an optimizer's state, a whole module, or a mapping at least
    half of whose tensors stand in it directly; failing all, the mapping around the tensor.

    Args:
        paths: Of every tensor, from the root.
        wholes: Places of optimizer states and whole modules.
    """
    direct: dict[Path, int] = {}
    total: dict[Path, int] = {}
    for path in paths:
        direct[path[:-1]] = direct.get(path[:-1], 0) + 1
        for depth in range(len(path)):
            total[path[:depth]] = total.get(path[:depth], 0) + 1

    def depth_of_container(path: Path) -> int:
        for depth in range(len(path)):
            here = path[:depth]
            if here in wholes or 2 * direct.get(here, 0) >= total[here]:
                return depth
        return max(len(path) - 1, 0)

    depths = [depth_of_container(path) for path in paths]
    return [
        (joined(path[:depth]), joined(path[depth:]) or "(tensor)") for path, depth in zip(paths, depths, strict=True)
    ]


def parameter_keys(
    groups: Sequence[Any], name_of: Callable[[Any], str | int] = component
) -> tuple[tuple[str, str | None], ...]:
    """List an optimizer's parameters in the order of its `param_groups`: key in `state`, and name if known.

    Args:
        groups: The `param_groups` of an optimizer's state dict; what is no such group is passed over.
        name_of: Turns a key into a path component.
    """
    keys: list[tuple[str, str | None]] = []
    for group in groups:
        if not isinstance(group, dict) or not isinstance(group.get("params"), list):
            continue
        params = group["params"]
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
