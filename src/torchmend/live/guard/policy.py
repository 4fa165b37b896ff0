"""(state, observation) -> (state, decision): pure, so that it can be tested without a model, and replayed."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torchmend.facts.codes import Code, Severity
from torchmend.facts.errors import UserError
from torchmend.facts.findings import Finding
from torchmend.live.guard.decisions import Action, Decision, Observation
from torchmend.live.guard.running import Learned, Running
from torchmend.rules.evidence import finding

LEAST_USUAL, EARLY = 5, 3.0
"""Steps before anything is an outlier, and how many times as far away it has to lie until the warm-up is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How the guard decides.

    A step is an outlier when at least two of four signals agree: the logarithms of loss and of gradient norm lie
    `spike` standard deviations above their running means; a running variance grew `variance_jump`-fold; an update was
    larger than `update_ratio` times its matrix. One alone is no ground: on a clean run of small batches each happens.

    Args:
        most_refusals: So many refusals in the last `window` steps with one origin send the run back, or stop it.
        window: Steps that are remembered for that.
        most_back_offs: So many steps that the GradScaler refused within `back_off_window` are worth a warning.
        back_off_window: Steps that are remembered for that.
        most_in_a_row: So many steps in a row that the GradScaler refused send the run back, or stop it.
        most_outliers: So many outliers in the last `window` steps send the run back, or lower the learning rate.
        spike: Standard deviations; infinity never takes a step for an outlier.
        variance_jump: A factor.
        update_ratio: Norm of the update of a matrix, relative to its own.
        rate_factor: Learning rates are multiplied by it when they are lowered, above 0 and at most 1.
        warm_up: Steps that tell what is usual; until they are over an outlier lies three times as far away.
        probation: Steps after an outlier or a return in which it is watched whether what was learned is lost.
        most_lost: So many steps in a row on probation with nearly all of the loss's fall lost send the run back, or
            lower the learning rate.
    """

    most_refusals: int = 8
    window: int = 32
    most_back_offs: int = 3
    back_off_window: int = 10
    most_in_a_row: int = 24
    most_outliers: int = 3
    spike: float = 6.0
    variance_jump: float = 4.0
    update_ratio: float = 1.0
    rate_factor: float = 0.5
    warm_up: int = 20
    probation: int = 200
    most_lost: int = 10

    def __post_init__(self) -> None:
        """Raise UserError for values without a meaning."""
        counts = (
            "most_refusals",
            "window",
            "most_back_offs",
            "back_off_window",
            "most_in_a_row",
            "most_outliers",
            "most_lost",
        )
        for name, least in (*((name, 1) for name in counts), ("warm_up", 2), ("probation", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be {least} or more.")
        if self.window < self.most_refusals:
            raise UserError(f"window is {self.window}; it must be at least most_refusals, {self.most_refusals}.")
        for name in ("spike", "variance_jump", "update_ratio", "rate_factor"):
            if not getattr(self, name) > 0:
                never = "" if name == "rate_factor" else " (math.inf switches it off)"
                raise UserError(f"{name} is {getattr(self, name)}; it must be above 0{never}.")
        if self.rate_factor > 1:
            raise UserError(f"rate_factor is {self.rate_factor}; it must be at most 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyState:
    """What the policy remembers.

    Args:
        refusals: Step and origin of the refusals within the window, oldest first.
        back_offs: Steps that the GradScaler refused within its window.
        in_a_row: How many steps up to now it refused one after the other.
        norms: Of the gradient norms of steps that happened.
        losses: Of their losses.
        outliers: Steps within the window that were outliers.
        outlier: The last step that was refused as an outlier; -1 if none was.
        learned: How far the loss has fallen.
        alarmed: The last step that was an outlier, or from which the run went back; -1 if there was none.
        widened: The last step in which a running variance grew by far; -1 if there was none.
        happened: How many steps happened since the start or the last return.
    """

    refusals: tuple[tuple[int, str], ...] = ()
    back_offs: tuple[int, ...] = ()
    in_a_row: int = 0
    norms: Running = Running()
    losses: Running = Running()
    outliers: tuple[int, ...] = ()
    outlier: int = -1
    learned: Learned = Learned()
    alarmed: int = -1
    widened: int = -1
    happened: int = 0

    def after_return(self, step: int) -> "PolicyState":
        """Return what is remembered when a run has gone back to where this was its memory; it is on probation."""
        return PolicyState(norms=self.norms, losses=self.losses, learned=replace(self.learned, lost=0), alarmed=step)


def decide(policy: Policy, state: PolicyState, seen: Observation) -> tuple[PolicyState, Decision]:
    """Decide what happens to a step.

    Args:
        policy: How.
        state: What is remembered of earlier steps.
        seen: The step.
    """
    bad = tuple(_damage(seen))
    if seen.scaled and not seen.gradients_finite:
        return _refused_by_scaler(policy, state, seen, bad)
    if bad:
        return _refused(policy, state, seen, bad)
    if seen.lowest_rate < 0:  # a smaller rate would be below zero as well
        return _refused(policy, state, replace(seen, can_go_back=False), (_backwards(seen.lowest_rate),))
    odd = tuple(_oddities(seen))
    signals = _signals(policy, state, seen)
    if len(signals) > 1:
        return _outlier(policy, state, seen, (_spike(signals), *odd))
    on_probation = _is_recent(state.alarmed, policy, seen)
    if state.learned.lost >= policy.most_lost and on_probation:
        return _given_up(seen, (_spike(_loss_back(state)), *odd))
    if seen.variance_jump > policy.variance_jump and state.norms.count >= policy.warm_up:
        if not _is_recent(state.widened, policy, seen):
            odd = (*odd, _widened(seen.variance_jump))
        state = replace(state, widened=seen.step)
    decision = _decision(Action.LOG if odd else Action.PROCEED, seen, odd)
    is_odd = bool(signals or (state.learned.lost and on_probation))
    return _happened(policy, state, seen), replace(decision, is_odd=True) if is_odd else decision


def _is_recent(step: int, policy: Policy, seen: Observation) -> bool:
    """Return whether a step, -1 for none, was not longer ago than a probation lasts."""
    return step >= 0 and seen.step - step <= policy.probation


def _signals(policy: Policy, state: PolicyState, seen: Observation) -> tuple[str, ...]:
    """Return which signals say that a step is out of all proportion, in words; early on only gross ones."""
    if state.norms.count < LEAST_USUAL or not seen.gradients_finite:
        return ()
    found = []
    for name, value, running in (("loss", seen.loss, state.losses), ("gradient norm", seen.gradient_norm, state.norms)):
        most = policy.spike * (EARLY if running.count < policy.warm_up else 1)
        if value is not None and running.count >= LEAST_USUAL and (above := running.deviation(value)) > most:
            found.append(f"{name} {value:g} lies {above:.1f} standard deviations above what it was")
    if state.norms.count < policy.warm_up:
        return tuple(found)
    if seen.loss is not None and not math.isfinite(seen.loss) and seen.gradient_norm > 0:
        found.append(f"the loss is {seen.loss:g} though gradients are not zero")
    if seen.variance_jump > policy.variance_jump:
        found.append(f"a running variance grew {seen.variance_jump:.3g}-fold")
    if seen.update_ratio > policy.update_ratio:
        found.append(f"an update was {seen.update_ratio:.3g} times as large as its matrix")
    return tuple(found)


def _loss_back(state: PolicyState) -> tuple[str, ...]:
    return (
        f"for {state.learned.lost} steps the loss has been back where the run began, after steps out of all proportion",
    )


def _refused_by_scaler(
    policy: Policy, state: PolicyState, seen: Observation, bad: tuple[Finding, ...]
) -> tuple[PolicyState, Decision]:
    recent = (*(step for step in state.back_offs if step > seen.step - policy.back_off_window), seen.step)
    state = replace(state, back_offs=recent, in_a_row=state.in_a_row + 1)
    if len(recent) >= policy.most_back_offs and state.norms.count >= policy.warm_up:
        bad = (*bad, _collapsing(recent, policy))
    decision = replace(_decision(Action.REFUSE, seen, bad), by_scaler=True)
    if state.in_a_row >= policy.most_in_a_row:
        first = seen.step - state.in_a_row + 1
        return _escalated(state, seen, replace(decision, by_scaler=False), state.in_a_row, first)
    return state, decision


def _refused(
    policy: Policy, state: PolicyState, seen: Observation, bad: tuple[Finding, ...]
) -> tuple[PolicyState, Decision]:
    refusals = _recent(state.refusals, seen.step - policy.window)
    if not (seen.is_part and (seen.step, seen.origin) in refusals):  # micro-batches of one step are no steps
        refusals = (*refusals, (seen.step, seen.origin))
    state = replace(state, refusals=refusals, in_a_row=0)
    same = [step for step, at in refusals if at == seen.origin]
    decision = _decision(Action.REFUSE, seen, bad)
    if len(same) >= policy.most_refusals:
        return _escalated(state, seen, decision, len(same), same[0])
    return state, decision


def _escalated(
    state: PolicyState, seen: Observation, decision: Decision, count: int, first: int
) -> tuple[PolicyState, Decision]:
    """Go back, with smaller learning rates, if steps have happened since the start or the last return; else stop."""
    if seen.can_go_back and state.happened:
        return PolicyState(), replace(decision, action=Action.ROLL_BACK, lowers_rate=True)
    explanation = _why_stop(count, first, seen, decision.findings[0])
    return state, replace(decision, action=Action.STOP, explanation=explanation)


def _outlier(
    policy: Policy, state: PolicyState, seen: Observation, findings: tuple[Finding, ...]
) -> tuple[PolicyState, Decision]:
    """Refuse a single outlier, never two in a row: the steps that would be refused may be those that heal."""
    outliers = (*(step for step in state.outliers if step > seen.step - policy.window), seen.step)
    if len(outliers) >= policy.most_outliers:
        return _given_up(seen, findings)
    state = replace(state, outliers=outliers, alarmed=seen.step)
    if state.outlier >= max(seen.step - 1, 0):
        return _happened(policy, state, seen), _decision(Action.LOG, seen, findings)
    return replace(state, outlier=seen.step), _decision(Action.REFUSE, seen, findings)


def _given_up(seen: Observation, findings: tuple[Finding, ...]) -> tuple[PolicyState, Decision]:
    """Go back, with smaller learning rates, or go on with smaller ones where there is nothing to go back to."""
    action = Action.ROLL_BACK if seen.can_go_back else Action.LOWER_RATE
    return PolicyState(alarmed=seen.step), replace(_decision(action, seen, findings), lowers_rate=True)


def _decision(action: Action, seen: Observation, findings: tuple[Finding, ...]) -> Decision:
    origin = "" if action in (Action.PROCEED, Action.LOG) else seen.origin
    return Decision(action=action, step=seen.step, findings=findings, origin=origin, rank=seen.rank)


def _damage(seen: Observation) -> Iterator[Finding]:
    if not seen.gradients_finite:
        yield finding(
            Code.GRADIENT_NOT_FINITE, Severity.ERROR, detail=_at(seen.gradient, f"norm {seen.gradient_norm:g}")
        )
    if seen.were_sound and not seen.buffers_finite:
        yield finding(Code.MEAN_NOT_FINITE, Severity.ERROR, detail=_at(seen.buffer, "written by this forward pass"))
    if seen.were_sound and not seen.variances_valid:
        yield finding(Code.VARIANCE_NEGATIVE, Severity.ERROR, detail=_at(seen.buffer, "written by this forward pass"))


def _oddities(seen: Observation) -> Iterator[Finding]:
    if seen.loss is not None and not math.isfinite(seen.loss):
        zero = "the gradients are zero" if seen.gradient_norm == 0 else "the gradients are finite"
        yield finding(Code.TRAINING_LOSS_NOT_FINITE, Severity.WARNING, detail=f"{seen.loss:g}, and {zero}")


def _backwards(rate: float) -> Finding:
    detail = (
        f"the learning rate is {rate:g}: below zero each step climbs the loss; end the schedule at zero, or the run"
    )
    return finding(Code.RISKY_SETUP, Severity.ERROR, detail=detail)


def _widened(factor: float) -> Finding:
    detail = (
        f"a running variance grew {factor:.3g}-fold in one step, and evaluation divides by it until it is forgotten; "
        "torchmend.recalibrate measures it again"
    )
    return finding(Code.TRAINING_SPIKE, Severity.WARNING, detail=detail)


def _spike(signals: tuple[str, ...]) -> Finding:
    return finding(Code.TRAINING_SPIKE, Severity.ERROR, detail="; ".join(signals))


def _happened(policy: Policy, state: PolicyState, seen: Observation) -> PolicyState:
    return PolicyState(
        refusals=_recent(state.refusals, seen.step - policy.window) if state.refusals else (),
        back_offs=state.back_offs,
        norms=state.norms.with_value(seen.gradient_norm),
        losses=state.losses if seen.loss is None else state.losses.with_value(seen.loss),
        outliers=state.outliers,
        outlier=state.outlier,
        learned=state.learned
        if seen.loss is None
        else state.learned.with_value(seen.loss, state.losses, policy.warm_up),
        alarmed=state.alarmed,
        widened=state.widened,
        happened=state.happened + 1,
    )


def _recent(refusals: tuple[tuple[int, str], ...], after: int) -> tuple[tuple[int, str], ...]:
    return tuple((step, origin) for step, origin in refusals if step > after)


def _at(origin: str, what: str) -> str:
    return f"{origin}: {what}" if origin else what


def _collapsing(recent: tuple[int, ...], policy: Policy) -> Finding:
    detail = f"the GradScaler refused {len(recent)} of the last {policy.back_off_window} steps"
    return finding(Code.SCALER_COLLAPSING, Severity.WARNING, detail=detail)


def _why_stop(count: int, first: int, seen: Observation, reason: Finding) -> str:
    where = f" at {seen.origin}" if seen.origin else ""
    return (
        f"{count} of the last {seen.step - first + 1} steps were refused for the same reason{where} "
        f"({reason.code.value}: {reason.detail}), so the fault is in the set-up and not in a batch. "
        f"{reason.remedy} `torchmend explain {reason.code.value}` tells more."
    )
