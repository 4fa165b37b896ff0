"""A model, a dictionary, an optimizer -> their tensors and scalars, with the names that a saved file gives them."""

import argparse
import types
from collections.abc import Hashable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchmend.facts.paths import LONGEST_NUMBER, LONGEST_TEXT, Path, component, joined, parameter_keys, split_paths
from torchmend.facts.tensors import Scalar
from torchmend.live.elements import detached, identity, local_part, why_unreadable
from torchmend.rules.roles import ParameterKeys

Owner = tuple[Any, Any]
"""A mapping, list or namespace, and the key under which it holds something."""

_ROOT: Path = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A tensor with its place."""

    container: str
    name: str
    tensor: Tensor
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Everything that was found in a live object.

    Args:
        leaves: Tensors, in the object's order.
        scalars: Numbers and short texts.
        owners: For each scalar's path, what holds it, where that can be changed.
        optimizers: Containers that are optimizer states, with their parameters' keys and names.
    """

    leaves: list[Leaf]
    scalars: list[Scalar]
    owners: dict[Path, Owner]
    optimizers: dict[str, ParameterKeys]


def find(source: nn.Module | Mapping[Any, Any], optimizer: Any = None) -> Found:
    """List a model's or a dictionary's tensors and scalars, and those of an optimizer.

    Args:
        source: A module (container "") or a dictionary, which may be nested as checkpoints are.
        optimizer: A `torch.optim.Optimizer`, or its state dict; stands in the container "optimizer".
    """
    if isinstance(source, nn.Module):
        leaves = [Leaf(container="", name=name, tensor=tensor) for name, tensor in module_tensors(source)]
        found = Found(leaves=leaves, scalars=[], owners={}, optimizers={})
    else:
        walk = _Walk()
        walk.walk(_ROOT, source)
        found = walk.found()
    if optimizer is not None:
        _add_optimizer(found, optimizer)
    return found


def module_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and buffer in the order of the state dict, every name of shared ones, all buffers."""
    for prefix, each in module.named_modules(remove_duplicate=False):
        for members in (each._parameters, each._buffers):
            for name, tensor in members.items():
                if tensor is not None:
                    yield (f"{prefix}.{name}" if prefix else name), tensor


@dataclass(slots=True)
class _Walk:
    """Goes through nested containers; what is reached by several ways is listed under the first of them."""

    leaves: list[tuple[Path, Tensor, bool]] = field(default_factory=list)
    scalars: list[Scalar] = field(default_factory=list)
    owners: dict[Path, Owner] = field(default_factory=dict)
    optimizers: dict[Path, ParameterKeys] = field(default_factory=dict)
    modules: set[Path] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)

    def found(self) -> Found:
        wholes = self.optimizers.keys() | self.modules
        places = split_paths([path for path, _, _ in self.leaves], wholes)
        return Found(
            leaves=[
                Leaf(container=container, name=name, tensor=tensor, read_only=read_only)
                for (container, name), (_, tensor, read_only) in zip(places, self.leaves, strict=True)
            ],
            scalars=self.scalars,
            owners=self.owners,
            optimizers={joined(path): keys for path, keys in self.optimizers.items()},
        )

    def walk(self, path: Path, root: Any) -> None:
        stack: list[tuple[Path, Any, Owner | None]] = [(path, root, None)]
        while stack:
            here, value, owner = stack.pop()
            if self._is_leaf(here, value, owner) or id(value) in self.seen:
                continue
            children = list(self._children(here, value))
            if children:
                self.seen.add(id(value))
                stack.extend(reversed(children))

    def _is_leaf(self, path: Path, value: Any, owner: Owner | None) -> bool:
        if isinstance(value, Tensor):
            self._add_tensor(path, value)
        elif isinstance(value, np.ndarray):
            self._add_array(path, value)
        elif isinstance(value, bool | int | float | str | np.generic):
            self._add_scalar(path, value.item() if isinstance(value, np.generic) else value, owner)
        else:
            return value is None or isinstance(value, bytes | type)
        return True

    def _add_scalar(self, path: Path, value: Any, owner: Owner | None) -> None:
        if isinstance(value, str):
            kept = len(value) <= LONGEST_TEXT
        else:
            kept = isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= LONGEST_NUMBER)
        if kept:
            self.scalars.append(Scalar(path=path, value=value))
            if owner is not None:
                self.owners[path] = owner

    def _add_tensor(self, path: Path, tensor: Tensor) -> None:
        for suffix, part in _parts(local_part(tensor)):
            named = (*path[:-1], f"{path[-1] if path else ''}{suffix}") if suffix else path
            self.leaves.append((named, part, False))

    def _add_array(self, path: Path, array: np.ndarray[Any, Any]) -> None:
        if (
            array.dtype.kind not in "biufc"
            or not array.dtype.isnative
            or array.dtype.name in ("longdouble", "float128")
        ):
            return
        writable = array.flags.writeable and all(stride >= 0 for stride in array.strides)
        tensor = torch.from_numpy(array if writable else array.copy())
        self.leaves.append((path, tensor, not writable))

    def _children(self, path: Path, value: Any) -> Iterator[tuple[Path, Any, Owner | None]]:
        if isinstance(value, nn.Module):
            self.modules.add(path)
            yield from (((*path, *name.split(".")), tensor, None) for name, tensor in module_tensors(value))
        elif isinstance(value, torch.optim.Optimizer):
            self.optimizers[path] = tuple((str(at), None) for at in range(len(parameters_of(value))))
            yield from _optimizer_entries(path, value)
        elif isinstance(value, Mapping):
            if isinstance(value.get("param_groups"), list) and "state" in value:
                self.optimizers[path] = parameter_keys(value["param_groups"])
            writable = isinstance(value, MutableMapping)
            yield from (((*path, component(k)), v, (value, k) if writable else None) for k, v in value.items())
        elif isinstance(value, list | tuple):
            writable = isinstance(value, list)
            yield from (((*path, i), v, (value, i) if writable else None) for i, v in enumerate(value))
        elif isinstance(value, argparse.Namespace | types.SimpleNamespace):
            yield from (((*path, k), v, (value, k)) for k, v in vars(value).items())


def _parts(tensor: Tensor) -> list[tuple[str, Tensor]]:
    """Return a sparse tensor's dense parts under the names that a saved one has; else the tensor itself."""
    if tensor.layout is torch.sparse_coo:
        return [(".indices", tensor._indices()), (".values", tensor._values())]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        compressed, plain = tensor.crow_indices(), tensor.col_indices()
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        compressed, plain = tensor.ccol_indices(), tensor.row_indices()
    else:
        return [("", tensor)]
    return [(".compressed_indices", compressed), (".plain_indices", plain), (".values", tensor.values())]


# Optimizers


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return an optimizer's parameters in the order in which its state dict numbers them."""
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    return list({id(p): p for p in parameters}.values())


def _optimizer_entries(path: Path, optimizer: torch.optim.Optimizer) -> Iterator[tuple[Path, Any, Owner | None]]:
    for at, parameter in enumerate(parameters_of(optimizer)):
        state = optimizer.state.get(parameter, {})
        yield from (((*path, "state", at, component(key)), value, (state, key)) for key, value in state.items())
    for at, group in enumerate(optimizer.param_groups):
        entries = ((key, value) for key, value in group.items() if key != "params")
        yield from (((*path, "param_groups", at, component(key)), value, (group, key)) for key, value in entries)


def _add_optimizer(found: Found, optimizer: Any) -> None:
    container = "optimizer"
    if any(leaf.container == container for leaf in found.leaves):
        container = "the given optimizer"  # the dictionary has one of its own
    walk = _Walk()
    walk.walk((container,), optimizer)
    if isinstance(optimizer, torch.optim.Optimizer):
        found.optimizers[container] = _named(parameters_of(optimizer), found.leaves)
    else:
        found.optimizers[container] = walk.optimizers.get((container,), ())
    for path, tensor, read_only in walk.leaves:
        found.leaves.append(Leaf(container=container, name=joined(path[1:]), tensor=tensor, read_only=read_only))
    found.scalars.extend(walk.scalars)
    found.owners.update(walk.owners)


def _named(parameters: list[Tensor], leaves: list[Leaf]) -> ParameterKeys:
    """Name an optimizer's parameters: they are the model's own tensors, or share memory with its state dict's."""
    names: dict[Hashable, str] = {}
    for leaf in reversed(leaves):
        path = f"{leaf.container}.{leaf.name}" if leaf.container else leaf.name
        names[id(leaf.tensor)] = path
        if not why_unreadable(leaf.tensor):
            names[_memory_of(leaf.tensor)] = path

    def name(parameter: Tensor) -> str | None:
        if id(parameter) in names or why_unreadable(parameter):
            return names.get(id(parameter))
        return names.get(_memory_of(parameter))

    return tuple((str(at), name(parameter)) for at, parameter in enumerate(parameters))


def _memory_of(tensor: Tensor) -> Hashable:
    return identity(detached(tensor), str(tensor.dtype))
