"""A repair as data: what would be written where, from which rung of the ladder, and how good it is."""

from dataclasses import dataclass
from enum import StrEnum

from torchmend.facts.tensors import TensorRef


class Rung(StrEnum):
    """Where a repaired value came from, best first."""

    AVERAGED_COPY = "averaged copy"
    """The EMA or SWA copy (or the live twin) of the same statistic in the same file."""
    DONOR = "donor"
    """The same tensor of another, healthy checkpoint."""
    SURVIVORS = "predicted from surviving channels"
    OTHER_LAYERS = "predicted from other layers"
    ZEROED = "zeroed"
    """Optimizer moments: the optimizer rebuilds them within a few steps."""
    IDENTITY = "identity"
    """Mean 0 or variance 1: finite, and otherwise a guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """Write these values at these flat indices (row-major); finite float64, rounded to the tensor's dtype."""

    index: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FillDamaged:
    """Write one value wherever the tensor is damaged: not finite, or below zero where that is damage.

    Args:
        value: What to write.
        also: Tensors of the same shape; where one of them is damaged the value is written too.
    """

    value: float
    also: tuple[TensorRef, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyDamaged:
    """Copy the damaged elements from the same places of another source's tensor of the same shape and dtype."""

    source: str
    ref: TensorRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One change to one tensor.

    Args:
        ref: The tensor.
        change: What to write.
        count: How many elements change.
        rung: Where the values come from.
        method: The predictor that won, in words; empty where there was no competition.
        approximate: Whether the result may differ from what training would have had there.
        error: The predictor's own estimate of the root-mean-square error of the layer's normalised output,
            in standard deviations, measured where the truth is known; None where nothing was estimated.
        reason: One plain sentence for the report.
    """

    ref: TensorRef
    change: Values | FillDamaged | CopyDamaged
    count: int
    rung: Rung
    method: str = ""
    approximate: bool = False
    error: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Damage that the plan leaves alone, and why."""

    ref: TensorRef
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairPlan:
    """What a repair would do. What it does not name stays bit for bit as it was."""

    source: str
    edits: tuple[Edit, ...] = ()
    refused: tuple[Refusal, ...] = ()
