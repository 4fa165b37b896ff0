"""torchmend as a protection, and what it says of the place of a fault."""

from pathlib import Path
from typing import Any

from torch import Tensor

import torchmend
from benchmarks.faults.places import Side, Told, plain
from benchmarks.faults.protections import Nothing
from benchmarks.faults.training import Act, Training
from torchmend import Action, Decision, Guard, Incident, Severity
from torchmend.live.forensics.findings import Cause

SIDES = {
    Cause.MODULE: Side.MODULE,
    Cause.LOSS: Side.LOSS,
    Cause.INPUT: Side.INPUT,
    Cause.PARAMETER: Side.STATE,
    Cause.BUFFER: Side.STATE,
}
"""What torchmend calls them; its other causes name no place."""

OF_STATE = ("TM1", "TM2")
"""Families of codes about tensors of the model itself."""


class Torchmend(Nothing):
    """`torchmend.Guard` on its defaults, told the loss."""

    name = "torchmend"
    about = "`torchmend.Guard(model, optimizer, scaler=, scheduler=, ema=)` and `guard.observe(loss)`; nothing else set"

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        self._noted = self._repaired = 0
        self.ranks: list[int] = []
        self.guard = Guard(
            training.model,
            training.optimizer,
            scaler=training.scaler,
            scheduler=training.scheduler,
            ema=training.ema,
            **self.options(),
        )
        self.catch_up()

    def options(self) -> dict[str, Any]:
        """Return what else the guard is given."""
        return {}

    def backward(self, loss: Tensor) -> bool:
        self.guard.observe(loss * self.training.accumulate if self.training.accumulate > 1 else loss)
        return super().backward(loss)

    def scaler_refused(self) -> None:
        """The guard's own decision says it."""

    def save(self, state: Any, path: Path, metric: float | None = None) -> None:
        saved = torchmend.save(state, path, step=self.now, metric=metric)
        if not saved.healthy:
            self.note(Act.REFUSE, "; ".join(f"{each.code.value} {each.place}" for each in saved.findings))

    def end(self) -> None:
        self.catch_up()

    def close(self) -> None:
        self.catch_up()
        self.guard.detach()

    def catch_up(self) -> None:
        """Note what the guard decided since the last time."""
        told = sum(self.guard.events.counts.values())
        new = told - self._noted
        self._noted = told
        for decision in [*self.guard.events.decisions][-new:] if new else ():
            self.note(act_of(decision), cause_of(decision), by_loop=decision.by_scaler)
            self.told += told_by(decision, self.now)
            self.ranks += ranks_named_by(decision)
        if self.guard.repaired > self._repaired:
            self._repaired = self.guard.repaired
            self.note(Act.REPAIR, "statistics before an evaluation")


class WithLoss(Torchmend):
    """The same, and the loss as a function, so that it can be made again."""

    name = "torchmend, loss="
    about = "the same with `Guard(loss=)` and `guard.observe(loss, batch)`, where the batch is the step's number"

    def __init__(self, training: Training) -> None:
        self._part = 0
        super().__init__(training)

    def options(self) -> dict[str, Any]:
        return {"loss": lambda _, at: self.training.loss(at)}

    def begin(self, step: int) -> None:
        super().begin(step)
        self._part = step * self.training.accumulate

    def backward(self, loss: Tensor) -> bool:
        count = self.training.accumulate
        self.guard.observe(loss * count if count > 1 else loss, self._part)
        self._part += 1
        return Nothing.backward(self, loss)


def told_by(decision: Decision, step: int) -> list[Told]:
    """Return the place that a decision names: by its incident, or by a finding about a tensor of the model."""
    if decision.incident is not None:
        told = place_of(decision.incident, step)
        return [] if told is None else [told]
    return [
        Told(step=step, side=Side.STATE, name=each.place, words=f"{each.code.value} {each.place}")
        for each in decision.findings
        if each.severity >= Severity.WARNING and each.code.value.startswith(OF_STATE) and each.place
    ][:1]


def ranks_named_by(decision: Decision) -> list[int]:
    """Return the process that a decision or its incident names as the one that it happened on, if any."""
    named = (getattr(decision, "rank", None), decision.incident and decision.incident.rank)
    return [each for each in named if each is not None][:1]


def place_of(incident: Incident, step: int) -> Told | None:
    """Return the place that an incident names; None if it names none."""
    found = incident.found
    if found.cause not in SIDES:
        return None
    return Told(
        step=step,
        side=SIDES[found.cause],
        name=found.module,
        operation=plain(found.operation),
        backward=found.backward,
        words=found.sentence + (f" ({found.how})" if found.how else ""),
    )


def act_of(decision: Decision) -> Act:
    """Return the class of what a guard did."""
    if decision.action in (Action.LOG, Action.PROCEED):
        severe = any(each.severity >= Severity.WARNING for each in decision.findings)
        return Act.WARN if severe else Act.LOG
    return {
        Action.REPAIR: Act.REPAIR,
        Action.REFUSE: Act.UNDO,
        Action.LOWER_RATE: Act.LOWER_RATE,
        Action.ROLL_BACK: Act.ROLL_BACK,
        Action.STOP: Act.STOP,
    }[decision.action]


def cause_of(decision: Decision) -> str:
    """Return the codes and words that a decision gives."""
    said = [f"{each.code.value} {each.place} {each.detail}".strip() for each in decision.findings]
    return "; ".join(each for each in (decision.origin, *said, decision.explanation) if each)
