"""Where a fault is, what a tool says of it, and whether that is right: pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self


class Side(StrEnum):
    """On which side of the model a fault lies."""

    MODULE = "module"
    """A module of the model makes it."""
    LOSS = "loss"
    """Code outside of the model makes it: the loss, or what prepares the batch."""
    INPUT = "input"
    """It is in what the model is given."""
    STATE = "state"
    """It is in a weight or a buffer before the step."""


class Verdict(StrEnum):
    """How right a tool is about a place, best first."""

    MODULE = "module"
    """The right module, weight or buffer is named, or one that the case lists as as good."""
    SIDE = "side"
    """It is not in the model, and the right side of the model is named."""
    OPERATION = "operation"
    """The right operation is named, and no place."""
    WRONG = "wrong"
    NOTHING = "nothing"

    @property
    def is_right(self) -> bool:
        """Whether module or side are right."""
        return self in (Verdict.MODULE, Verdict.SIDE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Where a case's fault is, by its code.

    Args:
        sides: Each is right.
        names: Of the module, or for STATE of the tensor; the first is the best, and others are as good. The model
            itself has the name of its class.
        operations: torch's names of the operations that make it; each is right. Empty where none does.
        backward: Whether it is made in the backward pass.
        because: For a case without a place: why there is none. Empty for all others.
        about: What else has to be known, such as why another name is as good.
    """

    sides: tuple[Side, ...] = ()
    names: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    backward: bool = False
    because: str = ""
    about: str = ""

    @property
    def is_localisable(self) -> bool:
        """Whether there is a place to name."""
        return bool(self.sides)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A place that a tool named.

    Args:
        step: At which step of the loop.
        side: On which side of the model; None if it does not say.
        name: Of module or tensor; empty if it names none.
        operation: torch's name of the operation, without underscores around it; empty if it names none.
        backward: Whether it says that the backward pass makes it.
        words: In its own words.
    """

    step: int
    side: Side | None = None
    name: str = ""
    operation: str = ""
    backward: bool = False
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """What one tool said first about one run.

    Args:
        case: Its name.
        tool: The same.
        seed: Of the run.
        told: What it said; None if it named no place.
    """

    case: str
    tool: str
    seed: int
    told: Told | None

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Return what `as_json` gave these fields of."""
        told = fields["told"]
        return cls(**{**fields, "told": told and Told(**{**told, "side": told["side"] and Side(told["side"])})})


def first_told(told: Iterable[Told], onset: int) -> Told | None:
    """Return the first place that was named from the onset on, or before the first step; None if none was."""
    return next((each for each in told if each.step >= onset or each.step < 0), None)


def verdict(told: Told | None, truth: Truth) -> Verdict:
    """Return how right a place is; one in a case without a place is WRONG."""
    if told is None:
        return Verdict.NOTHING
    if told.side is None:
        return Verdict.OPERATION if names_operation(told, truth) else Verdict.WRONG
    if told.side not in truth.sides:
        return Verdict.WRONG
    if told.side in (Side.LOSS, Side.INPUT):
        return Verdict.SIDE
    return Verdict.MODULE if told.name in truth.names else Verdict.WRONG


def names_operation(told: Told, truth: Truth) -> bool:
    """Return whether the operation is one of those that make it, in the right pass."""
    return told.operation in truth.operations and (told.backward or not truth.backward)


def plain(operation: str) -> str:
    """Return torch's name of an operation without the underscores and the overload around it."""
    return operation.partition(".")[0].strip("_")


def of_autograd(function: str) -> str:
    """Return the operation whose slope an autograd function works out: "SqrtBackward0" is of "sqrt"."""
    name = re.sub(r"Backward\d*$", "", function)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
