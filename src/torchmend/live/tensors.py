"""Tensors in whatever models take and put out, and which of them can be looked at."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

_PLAIN = (Tensor, nn.Parameter, nn.Buffer)


def tensors_of(tree: Any) -> list[Tensor]:
    """Return all tensors in lists, tuples, mappings, dataclasses and what else torch knows as a tree, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    found: list[Tensor] = []
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif isinstance(leaf, Mapping):
            found += tensors_of(list(leaf.values()))
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            found += tensors_of([getattr(leaf, each.name, None) for each in fields(leaf)])
    return found


def is_plain(tensor: Tensor) -> bool:
    """Return whether reductions of a tensor are tensors that outlive the call: no subclass, no transform's wrapper."""
    return (
        type(tensor) in _PLAIN
        and tensor.layout is torch.strided
        and tensor.device.type != "meta"
        and not tensor.is_nested
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )
