"""Where an operation runs: in which module, in which line; in a backward pass, where its forward operation ran."""

import bisect
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchmend.live.ownership import plain

_WORD = re.compile("([A-Z])")

_TORCH, _OURS = str(Path(torch.__file__).parent), str(Path(__file__).parents[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an operation ran.

    Args:
        module: The innermost module that was under way, by name; empty in code outside of all modules.
        kind: Its class.
        known: Whether it is one of the model's.
        also: Its other names, if it is shared, with commas.
        call: Which of its calls in the step it was, from 1.
        line: "model.py:12", the nearest line of code that is not torch's; empty where there is none.
        after: For code outside of all modules the one that had ended last then, by name; empty before any.
    """

    module: str = ""
    kind: str = ""
    known: bool = False
    also: str = ""
    call: int = 1
    line: str = ""
    after: str | None = None


class Places:
    """Follows which modules are under way, and remembers which numbers autograd gave to what ran where.

    Args:
        models: To name modules by.

    Attributes:
        after: The last module that ended inside of the outermost one, by name.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.after = ""
        self._latest = ""
        self._names = _names_of(models)
        self._stack: list[tuple[nn.Module, str]] = []
        self._calls: Counter[int] = Counter()
        self._numbers: list[int] = []
        self._marked: list[Place] = []

    @property
    def is_inside(self) -> bool:
        """Whether a module is under way."""
        return bool(self._stack)

    def enter(self, module: nn.Module) -> None:
        """Take note that a module is called."""
        names = self._names.get(id(module), ())
        around = next((f"{name}." for _, name in reversed(self._stack) if name), "")
        name = next((each for each in names if each.startswith(around)), names[0] if names else "")
        self._calls[id(module)] += 1
        self._stack.append((module, name))

    def leave(self, module: nn.Module) -> Place:
        """Take note that a module has ended, and return its place."""
        place = self._now()
        if self._stack and self._stack[-1][0] is module:
            self._stack.pop()
        if place.known:
            self._latest, self.after = (place.module, self.after) if self._stack else ("", self._latest or place.module)
        return place

    def mark(self) -> Place:
        """Return where the present operation runs, and remember it for what autograd made of it."""
        place = self._now()
        self._numbers.append(torch.autograd._get_sequence_nr() - 1)  # type: ignore[attr-defined]  # they only grow
        self._marked.append(place)
        return place

    def of_node(self) -> Place:
        """Return where the forward operation ran that the present node of the backward pass belongs to.

        A node has its number before its operation runs.
        """
        node: Any = torch._C._current_autograd_node()
        number = node._sequence_nr() if node is not None else sys.maxsize
        at = bisect.bisect_left(self._numbers, number)
        return self._marked[at] if at < len(self._marked) else Place()

    def _now(self) -> Place:
        line = _users_line()
        if not self._stack:
            return Place(line=line, after=self.after)
        module, name = self._stack[-1]
        names = self._names.get(id(module), ())
        return Place(
            module=name or type(module).__name__,
            kind=type(module).__name__,
            known=bool(names),
            also=", ".join(each for each in names if each != name),
            call=self._calls[id(module)],
            line=line,
        )


def node_name() -> str:
    """Return whose slope is being worked out ("sqrt", for SqrtBackward0); empty where that is not known."""
    node: Any = torch._C._current_autograd_node()
    return "" if node is None else _WORD.sub(r"_\1", node.name().partition("Backward")[0]).lower().lstrip("_")


def _names_of(models: Sequence[nn.Module]) -> Mapping[int, tuple[str, ...]]:
    """Return all names of each module; a shared one has several, a model that of its class."""
    names: dict[int, tuple[str, ...]] = {}
    for model, which in numbered(models):
        for path, module in model.named_modules(remove_duplicate=False):
            name = (plain(path) or type(module).__name__) + which
            names[id(module)] = *names.get(id(module), ()), name
    return names


def numbered(models: Sequence[nn.Module]) -> Iterator[tuple[nn.Module, str]]:
    """Yield models, each with what is put behind its names: its number, if there are several."""
    for number, model in enumerate(models, 1):
        yield model, f" (model {number})" if len(models) > 1 else ""


def _users_line() -> str:
    """Return the nearest line on the stack that is neither torch's nor ours; empty where the run of the batch is."""
    frame = sys._getframe(1)
    in_torch = False
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_TORCH):
            in_torch = True
        elif not path.startswith(_OURS):
            return f"{Path(path).name}:{frame.f_lineno}"
        elif in_torch:
            return ""
        frame = frame.f_back  # type: ignore[assignment]
    return ""
