"""A pickled object -> its tensors, with the names that the model's author knows, and its scalars.

Dictionaries and lists give path components; a whole pickled module gives the names of its `state_dict`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torchmend.facts import paths
from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.facts.paths import LONGEST_NUMBER, LONGEST_TEXT, Path, joined
from torchmend.facts.tensors import Scalar
from torchmend.formats.pickles.arrays import plain_number
from torchmend.formats.pickles.rebuild import tensors_of, wrapped_parts
from torchmend.formats.pickles.records import Call, Global, OpaqueKey, PlacedFloat
from torchmend.formats.pickles.specs import MalformedError, TensorSpec

__all__ = ["Tree", "joined", "read_tree", "split_paths"]

DEEPEST = 400

SCRIPTED = "__torch__"
"""The package that TorchScript gives its classes; their state holds parameters, buffers and modules side by side."""

_TAGGED = tuple(
    f"torch.jit._pickle.{name}"
    for name in ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag")
)
"""Functions that return their first argument: TorchScript notes a container's type with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """What was found in a pickled object.

    Args:
        leaves: Every tensor with its path, in order.
        malformed: Paths whose tensor could not be understood, and why.
        scalars: Numbers and short texts.
        optimizers: Paths of optimizer states, with the parameters' keys and names.
        modules: Paths of whole pickled modules.
    """

    leaves: list[tuple[Path, TensorSpec]] = field(default_factory=list)
    malformed: list[tuple[Path, str]] = field(default_factory=list)
    scalars: list[Scalar] = field(default_factory=list)
    optimizers: dict[Path, tuple[tuple[str, str | None], ...]] = field(default_factory=dict)
    modules: set[Path] = field(default_factory=set)


def read_tree(root: Any) -> Tree:
    """Find every tensor and scalar below an object that `Machine` returned.

    A container that is reached by several ways is listed under the first of them, so shared and cyclic
    structures end. The walk keeps its own stack: depth costs no recursion.

    Raises:
        FileError: It is nested deeper than any real checkpoint.
    """
    tree = Tree()
    seen: set[int] = set()
    stack: list[tuple[Path, Any]] = [((), root)]
    while stack:
        path, value = stack.pop()
        if len(path) > DEEPEST:
            raise FileError(
                Code.UNREADABLE,
                f"The pickle inside nests deeper than {DEEPEST} levels.",
                "No real checkpoint does; do not load this file with anything else either.",
            )
        if _is_leaf(tree, path, value) or id(value) in seen:
            continue
        children = list(_children(tree, path, value))
        if children:
            seen.add(id(value))
            stack.extend(reversed(children))
    return tree


def _is_leaf(tree: Tree, path: Path, value: Any) -> bool:
    if isinstance(value, PlacedFloat):
        tree.scalars.append(Scalar(path=path, value=float(value), place=value.at))
        return True
    if isinstance(value, bool | int | float):
        if isinstance(value, float) or value.bit_length() <= LONGEST_NUMBER:
            tree.scalars.append(Scalar(path=path, value=value))
        return True
    if isinstance(value, str):
        if len(value) <= LONGEST_TEXT:
            tree.scalars.append(Scalar(path=path, value=value))
        return True
    if value is None or isinstance(value, bytes | Global):
        return True
    if (number := plain_number(value)) is not None:
        tree.scalars.append(Scalar(path=path, value=number))
        return True
    try:
        specs = tensors_of(value)
    except MalformedError as error:
        tree.malformed.append((path, str(error)))
        return True
    if specs is None:
        return False
    tree.leaves.extend((_with_suffix(path, spec.suffix), spec) for spec in specs)
    return True


def _with_suffix(path: Path, suffix: str) -> Path:
    return (*path[:-1], f"{path[-1] if path else ''}{suffix}") if suffix else path


def _children(tree: Tree, path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict):
        yield from _entries(tree, path, value)
    elif isinstance(value, list | tuple):
        yield from (((*path, i), item) for i, item in enumerate(value))
    elif isinstance(value, Call):
        yield from _call_children(tree, path, value)


def _entries(tree: Tree, path: Path, mapping: dict[Any, Any]) -> Iterator[tuple[Path, Any]]:
    if isinstance(mapping.get("param_groups"), list) and "state" in mapping:
        tree.optimizers[path] = paths.parameter_keys(mapping["param_groups"], _component)
    yield from (((*path, _component(key)), value) for key, value in mapping.items())


def _component(key: Any) -> str | int:
    return "(unnamed)" if isinstance(key, OpaqueKey) else paths.component(key)


def _call_children(tree: Tree, path: Path, call: Call) -> Iterator[tuple[Path, Any]]:
    wrapped = wrapped_parts(call)
    if wrapped is not None:
        for attribute, part in wrapped.items():
            yield (path if attribute == "_local_tensor" else (*path, _component(attribute))), part
        return
    if call.named(*_TAGGED) and isinstance(call.args, tuple) and call.args:
        yield from _children(tree, path, call.args[0])
        return
    state = call.state
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):  # (__dict__, slots)
        state = {**(state[0] if isinstance(state[0], dict) else {}), **state[1]}
    if isinstance(state, dict) and isinstance(state.get("_parameters"), dict | Call):
        tree.modules.add(path)
        yield from _module_entries(path, state)
        return
    if isinstance(call.func, Global) and call.func.module.split(".")[0] == SCRIPTED and isinstance(state, dict):
        tree.modules.add(path)
        yield from _entries(tree, path, state)
        return
    listed = _listed_pairs(call)
    if pairs := {**listed, **(call.pairs or {})}:
        yield from _entries(tree, path, pairs)
    if call.items:
        yield from (((*path, i), item) for i, item in enumerate(call.items))
    if isinstance(call.args, tuple | list) and not listed:
        yield from (((*path, i), item) for i, item in enumerate(call.args) if not isinstance(item, str))
    if isinstance(state, dict):
        # An OrderedDict's attributes (the `_metadata` of a state dict) are no entries of it.
        yield from (((*path, _component(k)), v) for k, v in state.items() if k != "_metadata")
    elif state is not None:
        yield (*path, "(state)"), state


def _listed_pairs(call: Call) -> dict[str | int, Any]:
    """Return the entries that a call gives to the dictionary it makes: so Python 2 pickles an OrderedDict."""
    if not call.named("collections.OrderedDict") or not isinstance(call.args, tuple) or len(call.args) != 1:
        return {}
    pairs = call.args[0] if isinstance(call.args[0], list) else []
    if not all(isinstance(p, list | tuple) and len(p) == 2 and isinstance(p[0], str | int) for p in pairs):
        return {}
    return dict(pairs)


def _module_entries(path: Path, state: dict[Any, Any]) -> Iterator[tuple[Path, Any]]:
    """List a module's tensors as its `state_dict` would, then whatever else it carries."""
    for attribute in ("_parameters", "_buffers", "_modules"):
        members = state.get(attribute)
        entries = {**_listed_pairs(members), **(members.pairs or {})} if isinstance(members, Call) else members
        if isinstance(entries, dict):
            yield from (((*path, _component(key)), value) for key, value in entries.items())
    yield from (
        ((*path, _component(key)), value) for key, value in state.items() if not str(_component(key)).startswith("_")
    )


def split_paths(tree: Tree) -> list[tuple[str, str]]:
    """Split each leaf's path into the container that it stands in and its name there."""
    return paths.split_paths([path for path, _ in tree.leaves], tree.optimizers.keys() | tree.modules)
