"""A repair as data: what would be written where, from which rung of the ladder, and how good it is."""

from dataclasses import dataclass
from enum import StrEnum

from torchmend.facts.codes import Code
from torchmend.facts.tensors import Scalar, TensorRef


class Rung(StrEnum):
    """Where a repaired value came from, best first."""

    MASTER = "master copy"
    """The wider copy of the same weight that the optimizer of a mixed-precision run keeps."""
    AVERAGED_COPY = "averaged copy"
    """The EMA or SWA copy of the same tensor in the same source."""
    LIVE_TWIN = "live twin"
    """For a tensor of an EMA, SWA or master copy: the live tensor that it belongs to."""
    DONOR = "donor"
    """The same tensor of another, healthy checkpoint."""
    DATA = "re-estimated on data"
    """For running statistics: measured again in forward passes over batches of data."""
    SURVIVORS = "predicted from surviving channels"
    OTHER_LAYERS = "predicted from other layers"
    NOISE = "re-estimated on noise"
    """As on data, with noise for inputs: right for a layer as far as it sees of its input what noise shows it."""
    ZEROED = "zeroed"
    """Optimizer moments: the optimizer rebuilds them within a few steps."""
    FRESH = "fresh state"
    """What the object starts with when it is made anew."""
    SAME_FILE = "another place in the same file"
    """A number that the checkpoint holds twice."""
    WORST = "worst value"
    """For a best metric: the value that every result beats."""
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
class FillAll:
    """Write one value to every element."""

    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyDamaged:
    """Copy the damaged elements from the same places of another tensor of the same shape.

    Args:
        source: The donor's name; empty for another tensor of the same source.
        ref: The tensor to copy from. A value of another element type is rounded to this tensor's.
    """

    source: str
    ref: TensorRef


Change = Values | FillDamaged | FillAll | CopyDamaged


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
        reason: One plain sentence for the report: why this is sound.
        codes: The findings that it answers.
    """

    ref: TensorRef
    change: Change
    count: int
    rung: Rung
    method: str = ""
    approximate: bool = False
    error: float | None = None
    reason: str = ""
    codes: tuple[Code, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalarEdit:
    """One change to one number among the metadata.

    Args:
        scalar: The number as it is.
        value: What it becomes.
        rung: Where the value comes from.
        reason: One plain sentence for the report: why this is sound.
        codes: The findings that it answers.
    """

    scalar: Scalar
    value: float
    rung: Rung
    reason: str
    codes: tuple[Code, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Damage that the plan leaves alone, and why."""

    about: TensorRef | Scalar
    reason: str

    @property
    def place(self) -> str:
        """The dotted path of what is left alone."""
        return self.about.path if isinstance(self.about, TensorRef) else self.about.dotted


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairPlan:
    """What a repair would do. What it does not name stays bit for bit as it was."""

    source: str
    edits: tuple[Edit, ...] = ()
    scalars: tuple[ScalarEdit, ...] = ()
    refused: tuple[Refusal, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether it would change nothing."""
        return not self.edits and not self.scalars
