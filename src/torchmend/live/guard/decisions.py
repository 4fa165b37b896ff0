"""What the guard saw of a step, and what it decided: data."""

from dataclasses import dataclass, field
from enum import StrEnum

from torchmend.facts.findings import Finding
from torchmend.live.forensics.incidents import Incident


class Action(StrEnum):
    """What happens to a step, mildest first."""

    PROCEED = "proceed"
    LOG = "log"
    """Something was odd and harmless; the step happens."""
    REPAIR = "repair"
    """Statistics that were damaged before the step were repaired; the step happens."""
    REFUSE = "refuse"
    """The step does not happen: nothing moves, and what the forward pass wrote is undone."""
    LOWER_RATE = "lower the learning rate"
    """The step happens, and those that follow go on with smaller learning rates."""
    ROLL_BACK = "roll back"
    """The step does not happen, and state goes back to a snapshot: some steps are lost."""
    STOP = "stop"
    """Going on would not help; an error says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What was seen at the end of a backward pass.

    Args:
        step: The number of the step, counted from 0 by the guard.
        gradient_norm: The 2-norm of all gradients, without the GradScaler's factor; Inf or NaN as they are; 0.0 without
            gradients.
        gradients_finite: Whether every element of every gradient is finite.
        loss: What `observe` was told last; None if nothing.
        scale: The GradScaler's factor; 1.0 without one.
        scaled: Whether a GradScaler is at work, so that an overflow is its ordinary business.
        buffers_finite: Whether every element of every watched buffer is finite.
        variances_valid: Whether no running variance is below zero.
        variance_jump: By what factor the running variance that grew most did so in this forward pass; NaN if one is.
        update_ratio: The largest norm of an update relative to that of its matrix, in the step before this one; 0.0
            if it was not looked at.
        overflowed: Whether the norm was worked out in float64, because squares of finite gradients were infinite.
        gradient: The first gradient that is not finite, by its parameter's name; empty if all are.
        buffer: The first buffer that is not as it should be, by name; empty if all are.
        were_sound: Whether the buffers were sound when the step began.
        is_part: Whether it is of one micro-batch that may be dropped alone.
        can_go_back: Whether there is a snapshot to go back to.
        lowest_rate: The lowest learning rate that is known without a wait; 0.0 if none is below.
        own_loss: The loss of this rank; the same as `loss` where there is one alone.
        own_gradient_finite: Whether a gradient of this rank was finite before it was averaged with the others'.
        own_input: Largest absolute value that the models were called with, Inf for NaN; 0.0 if it was not looked at.
        rank: Where several train together, the first that saw what not all of them saw; else None.
    """

    step: int = 0
    gradient_norm: float = 0.0
    gradients_finite: bool = True
    loss: float | None = None
    scale: float = 1.0
    scaled: bool = False
    buffers_finite: bool = True
    variances_valid: bool = True
    variance_jump: float = 1.0
    update_ratio: float = 0.0
    overflowed: bool = False
    gradient: str = ""
    buffer: str = ""
    were_sound: bool = True
    is_part: bool = False
    can_go_back: bool = False
    lowest_rate: float = 0.0
    own_gradient_finite: bool = True
    own_loss: float | None = None
    own_input: float = 0.0
    rank: int | None = None

    @property
    def origin(self) -> str:
        """The first tensor that is not as it should be: the forward pass comes before the backward pass."""
        return self.buffer or self.gradient


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the guard decided about a step, and why.

    Args:
        action: What is done.
        step: The number of the step.
        findings: What led to it.
        origin: The first tensor that showed it, by name; empty if none did.
        by_scaler: Whether it is the GradScaler that refuses the step, and the guard undoes what it cannot.
        lowers_rate: Whether learning rates are made smaller with it.
        is_odd: Whether any signal says that the step is out of proportion; the next is looked at more closely.
        explanation: For STOP: what was seen, and what to change.
        incident: What running the batch again told, if it was.
        rank: Where several train together, the one that the fault was on; None if all saw it, or nobody can tell.
    """

    action: Action
    step: int
    findings: tuple[Finding, ...] = field(default=())
    origin: str = ""
    by_scaler: bool = False
    lowers_rate: bool = False
    is_odd: bool = False
    explanation: str = ""
    incident: Incident | None = None
    rank: int | None = None

    @property
    def happens(self) -> bool:
        """Whether the step happens."""
        return self.action in (Action.PROCEED, Action.LOG, Action.REPAIR, Action.LOWER_RATE)
