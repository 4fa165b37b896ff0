"""A pickled object -> its tensors, with the names that the model's author knows, and its scalars.

Dictionaries and lists give path components; a whole pickled module gives the names of its `state_dict`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torchmend.facts import paths
from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.facts.paths import LONGEST_NUMBER, LONGEST_TEXT, Path, joined
from torchmend.facts.tensors import Scalar
from torchmend.formats.pickles.arrays import plain_number
from torchmend.formats.pickles.rebuild import tensors_of, wrapped_parts
from torchmend.formats.pickles.records import Call, Global, OpaqueKey, Persistent, PlacedFloat
from torchmend.formats.pickles.specs import MalformedError, TensorSpec
from torchmend.formats.pickles.state import is_plain

__all__ = ["Tree", "joined", "read_tree", "split_paths"]

DEEPEST = 400

SCRIPTED = "__torch__"
"""The package that TorchScript gives its classes; their state holds parameters, buffers and modules side by side."""

_TAGGED = tuple(
    f"torch.jit._pickle.{name}"
    for name in ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag")
)
"""Functions that return their first argument: TorchScript notes a container's type with them."""

MOST_ALIASES = 10_000
"""How often tensors may be named once more, beyond once each."""

MOST_LISTED = 10_000
"""Numbers, texts and empty items of one list that are kept; beyond them only floats that are not finite."""

MOST_ROOM = 1 << 30

_KEPT, _COMPONENT = 100, 8
"""Bytes that a tensor or number takes, and each component of its path."""


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


def read_tree(root: Any, room: int = MOST_ROOM) -> Tree:
    """Find every tensor and scalar below an object that `Machine` returned.

    A container that is reached by several ways is listed under the first of them, so shared and cyclic
    structures end. The walk keeps its own stack: depth costs no recursion.

    Args:
        root: The object.
        room: Bytes that names may take, all together: a few bytes of a pickle can repeat a long one very often.

    Raises:
        FileError: It is nested deeper, or names more, than any real checkpoint.
    """
    walk = _Walk(room)
    seen: set[int] = set()
    stack: list[tuple[int, Iterator[tuple[Path, Any]]]] = [(0, iter([((), root)]))]
    while stack:
        above, children = stack[-1]
        path, value = next(children, (None, None))
        if path is None:
            stack.pop()
            continue
        if len(path) > DEEPEST:
            raise _absurd(f"nests deeper than {DEEPEST} levels")
        length = above + (len(path[-1]) if path and isinstance(path[-1], str) else _COMPONENT)
        if id(value) in seen or walk.is_leaf(path, value, length):
            continue
        if isinstance(value, dict | list | tuple | Call) and value != ():
            seen.add(id(value))
            stack.append((length, _children(walk.tree, path, value)))
    return walk.tree


def _absurd(what: str) -> FileError:
    return FileError(
        Code.UNREADABLE,
        f"The pickle inside {what}.",
        "No real checkpoint does; do not load this file with anything else either.",
    )


class _Walk:
    """What a walk has found so far, and what it may still take."""

    def __init__(self, room: int) -> None:
        self.tree = Tree()
        self._room = room
        self._tensors: dict[int, list[TensorSpec] | str] = {}
        self._aliases = 0

    def is_leaf(self, path: Path, value: Any, length: int) -> bool:
        """Keep a value that has nothing below it.

        Args:
            path: Where it was found.
            value: Anything.
            length: Characters of its name.
        """
        if isinstance(value, PlacedFloat):
            self._keep(Scalar(path=path, value=float(value), place=value.at), length)
        elif isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= LONGEST_NUMBER):
            self._keep(Scalar(path=path, value=value), length)
        elif isinstance(value, str):
            if len(value) <= LONGEST_TEXT:
                self._keep(Scalar(path=path, value=value), length)
        elif isinstance(value, Call | Persistent):
            return self._is_number(path, value, length) or self._is_tensor(path, value, length)
        else:
            return value is None or isinstance(value, int | bytes | Global)
        return True

    def _spend(self, path: Path, length: int) -> None:
        self._room -= _KEPT + length + _COMPONENT * len(path)
        if self._room < 0:
            raise _absurd("names more than fits its size")

    def _keep(self, scalar: Scalar, length: int) -> None:
        self._spend(scalar.path, length)
        self.tree.scalars.append(scalar)

    def _is_number(self, path: Path, value: Any, length: int) -> bool:
        if (number := plain_number(value)) is None:
            return False
        self._keep(Scalar(path=path, value=number), length)
        return True

    def _is_tensor(self, path: Path, value: Any, length: int) -> bool:
        """Keep a tensor; one that is reached again is described once."""
        specs = self._tensors.get(id(value))
        if specs is None:
            try:
                found = tensors_of(value)
            except MalformedError as error:
                specs = str(error)
            else:
                if found is None:
                    return False
                specs = found
            self._tensors[id(value)] = specs
        else:
            self._aliases += 1
            if self._aliases > MOST_ALIASES + len(self._tensors):
                raise _absurd(f"names its tensors more than {self._aliases - 1:,} times over")
        self._spend(path, length)
        if isinstance(specs, str):
            self.tree.malformed.append((path, specs))
        else:
            self.tree.leaves.extend((_with_suffix(path, spec.suffix), spec) for spec in specs)
        return True


def _with_suffix(path: Path, suffix: str) -> Path:
    return (*path[:-1], f"{path[-1] if path else ''}{suffix}") if suffix else path


def _children(tree: Tree, path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict):
        yield from _entries(tree, path, value)
    elif isinstance(value, list | tuple):
        yield from _listed(path, value)
    elif isinstance(value, Call):
        yield from _call_children(tree, path, value)


def _listed(path: Path, items: Sequence[Any]) -> Iterator[tuple[Path, Any]]:
    for at, item in enumerate(items):
        if at < MOST_LISTED or not _is_dull(item):
            yield (*path, at), item


def _is_dull(item: Any) -> bool:
    if isinstance(item, float):
        return math.isfinite(item)
    return not item or isinstance(item, int | str | bytes | Global)


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
        yield from _listed(path, call.items)
    if isinstance(call.args, tuple | list) and not listed:
        yield from (child for child in _listed(path, call.args) if not isinstance(child[1], str))
    if isinstance(state, dict):
        # An OrderedDict's attributes (the `_metadata` of a state dict) are no entries of it.
        yield from (((*path, _component(k)), v) for k, v in state.items() if k != "_metadata")
    elif state is not None:
        yield (*path, "(state)"), state


def _listed_pairs(call: Call) -> dict[Any, Any]:
    """Return the entries that a call gives to the dictionary it makes: so Python 2 pickles an OrderedDict."""
    if not call.named("collections.OrderedDict") or not isinstance(call.args, tuple) or len(call.args) != 1:
        return {}
    pairs = call.args[0] if isinstance(call.args[0], list) else []
    if not all(isinstance(p, list | tuple) and len(p) == 2 and is_plain(p[0]) for p in pairs):
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
