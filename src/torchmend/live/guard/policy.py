"""(state, observation) -> (state, decision): pure, so that it can be tested without a model, and replayed."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torchmend.facts.codes import Code, Severity
from torchmend.facts.errors import UserError
from torchmend.facts.findings import Finding
from torchmend.live.guard.decisions import Action, Decision, Observation
from torchmend.rules.evidence import finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How the guard decides.

    Args:
        most_refusals: So many refusals in the last `window` steps with one origin stop the run.
        window: Steps that are remembered for that.
        most_back_offs: So many steps that the GradScaler refused within `back_off_window` are worth a warning.
        back_off_window: Steps that are remembered for that.
        spike: How many standard deviations the logarithms of loss and gradient norm must both lie above their
            running means for a step to be refused as an outlier; infinity never refuses for that.
        warm_up: Steps before the running means count.
    """

    most_refusals: int = 8
    window: int = 32
    most_back_offs: int = 3
    back_off_window: int = 10
    spike: float = 6.0
    warm_up: int = 100

    def __post_init__(self) -> None:
        """Raise UserError for values without a meaning."""
        for name, least in (("most_refusals", 1), ("window", 1), ("most_back_offs", 1), ("warm_up", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be {least} or more.")
        if self.window < self.most_refusals:
            raise UserError(f"window is {self.window}; it must be at least most_refusals, {self.most_refusals}.")
        if not self.spike > 0:
            raise UserError(f"spike is {self.spike}; it must be above 0 (math.inf never refuses an outlier).")


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """An exponentially weighted mean and variance of a logarithm.

    Args:
        mean: Of the logarithms so far.
        variance: Of the same.
        count: How many there were.
    """

    mean: float = 0.0
    variance: float = 0.0
    count: int = 0

    def deviation(self, value: float) -> float:
        """Return by how many standard deviations a positive value's logarithm lies above the mean."""
        spread = math.sqrt(self.variance) or 1e-3
        return (math.log(value) - self.mean) / spread if value > 0 and math.isfinite(value) else 0.0

    def with_value(self, value: float, weight: float = 0.02) -> "Running":
        """Take in a value; one that is not finite and positive is passed over, so that it cannot poison the rest."""
        if not (value > 0 and math.isfinite(value)):
            return self
        share = max(weight, 1 / (self.count + 1))
        moved = math.log(value) - self.mean
        mean = self.mean + share * moved
        return Running(mean=mean, variance=(1 - share) * (self.variance + share * moved * moved), count=self.count + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyState:
    """What the policy remembers.

    Args:
        refusals: Step and origin of the refusals within the window, oldest first.
        back_offs: Steps that the GradScaler refused within its window.
        norms: Of the gradient norms of steps that happened.
        losses: Of their losses.
        outlier: The last step that was refused as an outlier; -1 if none was.
    """

    refusals: tuple[tuple[int, str], ...] = ()
    back_offs: tuple[int, ...] = ()
    norms: Running = Running()
    losses: Running = Running()
    outlier: int = -1


def decide(policy: Policy, state: PolicyState, seen: Observation) -> tuple[PolicyState, Decision]:
    """Decide what happens to a step.

    Args:
        policy: How.
        state: What is remembered of earlier steps.
        seen: The step.
    """
    findings = tuple(_findings(policy, state, seen))
    bad = tuple(each for each in findings if each.severity is Severity.ERROR)
    if not bad:
        action = Action.LOG if findings else Action.PROCEED
        return _happened(policy, state, seen), Decision(action=action, step=seen.step, findings=findings)
    by_scaler = seen.scaled and not seen.gradients_finite
    if by_scaler:
        recent = (*(step for step in state.back_offs if step > seen.step - policy.back_off_window), seen.step)
        state = replace(state, back_offs=recent)
        if len(recent) >= policy.most_back_offs and seen.step >= policy.warm_up:
            findings = (*findings, _collapsing(recent, policy))
        return state, Decision(
            action=Action.REFUSE, step=seen.step, findings=findings, origin=seen.origin, by_scaler=True
        )
    outlier = seen.step if bad[0].code is Code.TRAINING_SPIKE else state.outlier
    refusals = (*_recent(state.refusals, seen.step - policy.window), (seen.step, seen.origin))
    state = replace(state, refusals=refusals, outlier=outlier)
    same = [step for step, at in refusals if at == seen.origin]
    decision = Decision(action=Action.REFUSE, step=seen.step, findings=findings, origin=seen.origin)
    if len(same) >= policy.most_refusals:
        decision = replace(decision, action=Action.STOP, explanation=_why_stop(same, seen, bad[0]))
    return state, decision


def _findings(policy: Policy, state: PolicyState, seen: Observation) -> Iterator[Finding]:
    if not seen.gradients_finite:
        yield finding(
            Code.GRADIENT_NOT_FINITE, Severity.ERROR, detail=_at(seen.gradient, f"norm {seen.gradient_norm:g}")
        )
    if seen.were_sound and not seen.buffers_finite:
        yield finding(Code.MEAN_NOT_FINITE, Severity.ERROR, detail=_at(seen.buffer, "written by this forward pass"))
    if seen.were_sound and not seen.variances_valid:
        yield finding(Code.VARIANCE_NEGATIVE, Severity.ERROR, detail=_at(seen.buffer, "written by this forward pass"))
    if seen.loss is not None and not math.isfinite(seen.loss) and seen.gradients_finite:
        zero = "the gradients are zero" if seen.gradient_norm == 0 else "the gradients are finite"
        yield finding(Code.TRAINING_LOSS_NOT_FINITE, Severity.WARNING, detail=f"{seen.loss:g}, and {zero}")
    if _is_outlier(policy, state, seen):
        detail = (
            f"loss {seen.loss:g} and gradient norm {seen.gradient_norm:g} lie "
            f"{state.losses.deviation(seen.loss or 0):.1f} and {state.norms.deviation(seen.gradient_norm):.1f} "
            "standard deviations above what they were"
        )
        yield finding(Code.TRAINING_SPIKE, Severity.ERROR, detail=detail)


def _is_outlier(policy: Policy, state: PolicyState, seen: Observation) -> bool:
    """Return whether loss and gradient norm agree that a step is out of all proportion.

    Two in a row are never refused: what looks like an outlier twice is where the training has gone.
    """
    if seen.loss is None or not seen.gradients_finite or state.outlier >= max(seen.step - 1, 0):
        return False
    if min(state.losses.count, state.norms.count) < policy.warm_up:
        return False
    return min(state.losses.deviation(seen.loss), state.norms.deviation(seen.gradient_norm)) > policy.spike


def _happened(policy: Policy, state: PolicyState, seen: Observation) -> PolicyState:
    losses = state.losses if seen.loss is None else state.losses.with_value(seen.loss)
    recent = _recent(state.refusals, seen.step - policy.window)
    return replace(state, norms=state.norms.with_value(seen.gradient_norm), losses=losses, refusals=recent)


def _recent(refusals: tuple[tuple[int, str], ...], after: int) -> tuple[tuple[int, str], ...]:
    return tuple((step, origin) for step, origin in refusals if step > after)


def _at(origin: str, what: str) -> str:
    return f"{origin}: {what}" if origin else what


def _collapsing(recent: tuple[int, ...], policy: Policy) -> Finding:
    detail = f"the GradScaler refused {len(recent)} of the last {policy.back_off_window} steps"
    return finding(Code.SCALER_COLLAPSING, Severity.WARNING, detail=detail)


def _why_stop(same: list[int], seen: Observation, first: Finding) -> str:
    where = f" at {seen.origin}" if seen.origin else ""
    return (
        f"{len(same)} of the last {seen.step - same[0] + 1} steps were refused for the same reason{where} "
        f"({first.code.value}: {first.detail}), so the fault is in the set-up and not in a batch. "
        f"{first.remedy} `torchmend explain {first.code.value}` tells more."
    )
