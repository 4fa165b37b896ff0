"""Where two checkpoints differ, bit for bit."""

from typing import Any

import torch


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Find every tensor and plain value below dictionaries, lists and tuples."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, item in items for k, v in flat(item, f"{path}.{key}".lstrip(".")).items()}
    return {path: value}


def bits(tensor: torch.Tensor) -> bytes:
    """Return the bytes of a tensor's elements, row-major."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def same(one: Any, other: Any) -> bool:
    """Return whether two values are equal, NaNs included."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and bits(one) == bits(other)
    return type(one) is type(other) and (one == other or (one != one and other != other))


def changed(before: Any, after: Any) -> set[str]:
    """Return the paths of what differs between two structures, which must have the same keys."""
    one, other = flat(before), flat(after)
    assert one.keys() == other.keys()
    return {path for path in one if not same(one[path], other[path])}


def changed_elements(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    """Return the flat indices of the elements whose bits differ."""
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[before.element_size()]
    return (before.view(-1).view(kind) != after.view(-1).view(kind)).nonzero().view(-1).tolist()
