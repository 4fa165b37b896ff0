"""Batches as trees of tensors: what a model was called with, how many examples, some of them."""

from collections.abc import Mapping, MutableMapping, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from torchmend.live.tensors import tensors_of


def examples_in(tree: Any) -> int:
    """Return how many examples a batch has; 0 if it cannot be divided.

    A list of mappings has one for each, as targets of detection do; else it is the first dimension that most tensors
    share.
    """
    records = [len(each) for each in tree_leaves(tree, is_leaf=_is_of_records) if _is_of_records(each)]
    if records:
        return records[0]
    tensors = [each for each in tree_leaves(tree) if isinstance(each, Tensor)]  # in others `taken` divides nothing
    sizes = [each.shape[0] for each in tensors if each.dim() and each.layout is torch.strided]
    return max(sizes, key=sizes.count) if sizes else 0


def taken(tree: Any, indices: Sequence[int], of: int) -> Any:
    """Return a batch of some examples only.

    Args:
        tree: The batch.
        indices: Which examples.
        of: How many it has; tensors of another first dimension are taken whole, and so are all where lists hold the
            examples.
    """
    is_listed = any(map(_is_of_records, tree_leaves(tree, is_leaf=_is_of_records)))

    def is_divided(node: Any) -> bool:
        return is_listed and isinstance(node, list) and len(node) == of

    def part(leaf: Any) -> Any:
        if is_divided(leaf):
            return [leaf[at] for at in indices]
        fits = isinstance(leaf, Tensor) and leaf.dim() and leaf.layout is torch.strided and leaf.shape[0] == of
        return leaf[torch.tensor(list(indices), device=leaf.device)] if fits and not is_listed else leaf

    return tree_map(part, tree, is_leaf=is_divided)


def reachable(tree: Any) -> list[Tensor]:
    """Return all tensors in a tree, and those that objects in it hold as attributes, such as a distribution's."""
    own = [getattr(leaf, "__dict__", {}).values() for leaf in tree_leaves(tree) if not isinstance(leaf, Tensor)]
    found = [*tensors_of(tree), *(each for values in own for each in values if isinstance(each, Tensor))]
    return list({id(each): each for each in found}.values())


def fresh(tree: Any) -> Any:
    """Return a tree of the same leaves whose containers may be changed."""
    return tree_map(lambda leaf: copy(leaf) if isinstance(leaf, MutableMapping) else leaf, tree)


def _is_of_records(node: Any) -> bool:
    return isinstance(node, list) and bool(node) and all(isinstance(each, Mapping) for each in node)
