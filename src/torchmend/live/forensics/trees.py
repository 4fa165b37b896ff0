"""Trees of tensors and plain values as JSON, with the tensors beside it; back without running anything."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError, UserError

_CONSTANTS = (bool, int, float, str, type(None))


class Packer:
    """Turns trees into JSON, and collects their tensors.

    Attributes:
        tensors: What was collected, by the names that stand in the JSON; of the same object once.
        strange: Types of objects that JSON has no words for, by their full names.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.strange: list[str] = []
        self._known: dict[int, str] = {}

    def packed(self, tree: Any) -> Any:
        """Return a tree as JSON; mappings become dicts, objects with fields as well, and named tuples tuples."""
        match tree:
            case Tensor():
                return {"tensor": self._name(tree)}
            case torch.dtype() | torch.device() | torch.Size():
                return self._packed_torch(tree)
            case Mapping():
                return {"dict": [[self.packed(key), self.packed(value)] for key, value in tree.items()]}
            case list() | tuple():
                return {type_of(tree): [self.packed(each) for each in tree]}
            case _ if type(tree) in _CONSTANTS:
                return {"value": repr(tree)} if isinstance(tree, float) else tree
            case _ if is_dataclass(tree) and not isinstance(tree, type):
                return self.packed({each.name: getattr(tree, each.name, None) for each in fields(tree)})
        kind = f"{type(tree).__module__}.{type(tree).__qualname__}"
        self.strange.append(kind)
        return {"strange": kind}

    def _packed_torch(self, value: Any) -> Any:
        if isinstance(value, torch.Size):
            return {"tuple": list(value)}
        return {"dtype" if isinstance(value, torch.dtype) else "device": str(value).removeprefix("torch.")}

    def _name(self, tensor: Tensor) -> str:
        if id(tensor) not in self._known:
            name = self._known[id(tensor)] = f"tensor_{len(self._known)}"
            self.tensors[name] = tensor
        return self._known[id(tensor)]


def type_of(sequence: Any) -> str:
    """Return "list" or "tuple"."""
    return "list" if isinstance(sequence, list) else "tuple"


def unpacked(packed: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """Return the tree that was packed, its tensors on a device.

    Raises:
        FileError: It is none that was packed.
        UserError: It holds an object that JSON had no words for.
    """
    if not isinstance(packed, dict):
        return packed
    if len(packed) != 1:
        raise damaged(f"{str(packed)[:80]} is no value")
    ((kind, value),) = packed.items()
    match kind:
        case "tensor" if value in tensors:
            return tensors[value].to(device)
        case "list" | "tuple":
            items = [unpacked(each, tensors, device) for each in value]
            return items if kind == "list" else tuple(items)
        case "dict":
            return {unpacked(key, tensors, device): unpacked(each, tensors, device) for key, each in value}
        case "value":
            return float(value)
        case "dtype" if isinstance(getattr(torch, value, None), torch.dtype):
            return getattr(torch, value)
        case "device":
            return device
        case "strange":
            raise UserError(f"The batch holds a {value}, which no capsule keeps, so that it cannot be replayed.")
    raise damaged(f"{str(packed)[:80]} is no value")


def damaged(what: str) -> FileError:
    """Return the error of a capsule that is not as it was written."""
    return FileError(Code.UNREADABLE, f"The capsule is damaged: {what}.", "Take another, or the original of this copy.")
