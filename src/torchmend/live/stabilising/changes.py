"""What was changed in a model, why, what it costs, and how all of it is taken back."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from torchmend.live.stabilising.widening import Wide


class Kind(StrEnum):
    """What sort of change it is."""

    FLOAT32 = "float32"
    """A module computes in float32 inside autocast."""
    NORM = "norm"
    """Momentum and epsilon of a normalisation layer."""
    EPS = "eps"
    """The epsilon of a group of an optimizer's parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that was changed.

    Args:
        kind: What sort.
        place: The module's name in the model, the class's for the model itself; or the optimizer's group.
        before: How it was.
        after: How it is.
        reason: Why: a phrase.
    """

    kind: Kind
    place: str
    before: str
    after: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.before} -> {self.after}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """An overflow that was seen and could not be stopped from outside, and why.

    Args:
        place: The module in whose own code it is; empty for code outside the model.
        reason: A sentence's worth: what was seen, and what to do by hand.
    """

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place or 'outside the model'} left as it is: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What computing in float32 costs, measured side by side.

    Args:
        pairs: How often a step was run before and after.
        seconds_before: A forward and backward pass as the model was, median.
        seconds_after: The same as it is now.
        ratio: The median of the ratios of the pairs, after to before.
        bytes_before: What the forward pass keeps for the backward pass, weights not counted.
        bytes_after: The same as it is now.
    """

    pairs: int
    seconds_before: float
    seconds_after: float
    ratio: float
    bytes_before: int
    bytes_after: int

    def __str__(self) -> str:
        return (
            f"cost: {self.ratio:.2f} times the time ({self.seconds_before * 1e3:.1f} ms before, "
            f"{self.seconds_after * 1e3:.1f} ms after, medians of {self.pairs} pairs), "
            f"{self.bytes_after / max(self.bytes_before, 1):.2f} times the memory for the backward pass"
        )


class Stabilised:
    """What was changed; `undo` takes it back, and so does the end of a `with` block.

    Args:
        changes: What was changed.
        wide: The modules in float32, by name.
        putting_back: Put the settings back that were changed.
        left_out: What could not be stopped.

    Attributes:
        cost: What it costs, if that was measured.
    """

    def __init__(
        self,
        changes: Sequence[Change] = (),
        wide: Sequence[tuple[str, Wide]] = (),
        putting_back: Sequence[Callable[[], None]] = (),
        left_out: Sequence[LeftOut] = (),
    ) -> None:
        self._changes, self._left_out = tuple(changes), tuple(left_out)
        self._wide, self._putting_back = list(wide), list(putting_back)
        self.cost: Cost | None = None

    @property
    def changes(self) -> tuple[Change, ...]:
        """What was changed, in the order in which it was done. It stays after `undo`, as a record."""
        return self._changes

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What was seen to overflow and cannot be stopped without changing the code."""
        return self._left_out

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of the modules that were put into float32, as `modules=` takes them."""
        return tuple(name for name, _ in self._wide)

    def undo(self) -> None:
        """Make everything as it was. Doing it twice does nothing more.

        Settings that somebody else has changed since then stay as they are.
        """
        for _, wide in self._wide:
            wide.remove()
        while self._putting_back:
            self._putting_back.pop()()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the modules compute as they did before, while this lasts; settings stay changed."""
        for _, wide in self._wide:
            wide.paused = True
        try:
            yield
        finally:
            for _, wide in self._wide:
                wide.paused = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def summary(self) -> str:
        """Return each change with its reason, what was left out, and the cost: a line each."""
        changed = [str(each) for each in self._changes] or ["nothing to change"]
        cost = [] if self.cost is None else [str(self.cost)]
        return "\n".join([*changed, *map(str, self._left_out), *cost])

    __str__ = summary

    def __repr__(self) -> str:
        return f"<Stabilised: {len(self._changes)} changes, {len(self._left_out)} left out>"


def together(parts: Sequence[Stabilised]) -> Stabilised:
    """Return one handle for several: what they hold is undone last first.

    Args:
        parts: In the order in which they were made; they are not used by themselves any more.
    """
    return Stabilised(
        changes=[each for part in parts for each in part._changes],
        wide=[each for part in parts for each in part._wide],
        putting_back=[each for part in parts for each in part._putting_back],
        left_out=[each for part in parts for each in part._left_out],
    )
