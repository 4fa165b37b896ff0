"""A step that went wrong, investigated: its batch is run again under probes, and everything is put back after it."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from torchmend.facts.codes import Code
from torchmend.live.forensics.calls import Call, Recorder
from torchmend.live.forensics.capsules import Capsules, CapsuleWriter
from torchmend.live.forensics.causes import cause_of
from torchmend.live.forensics.findings import Cause, Localisation
from torchmend.live.forensics.incidents import Incident
from torchmend.live.forensics.localising import localise
from torchmend.live.forensics.remedies import Kind, tried
from torchmend.live.forensics.rerun import Rerun
from torchmend.live.forensics.rng import rng_kept
from torchmend.live.guard.buffers import BufferStore
from torchmend.live.guard.decisions import Action, Decision, Observation
from torchmend.live.guard.options import GuardOptions
from torchmend.live.guard.ownership import inner_model, plain
from torchmend.live.guard.ranks import gathered, trained_together, worst
from torchmend.live.guard.transaction import Transaction
from torchmend.live.rerunning import rerunning

PAUSE = 50
"""Steps until a fault with the same origin is investigated again."""

MOST = 32
"""Investigations in a run."""

LEAST_REFUSED = 2
"""Steps in a row that a GradScaler has to refuse, since single ones are its ordinary business."""


class Investigator:
    """Looks into steps that were refused; does nothing in others.

    Args:
        models: As the guard was given them.
        transactions: Of all optimizers; filled when the guard is attached.
        options: Of the guard.

    Attributes:
        last: Where the last failure began, in words; empty if none was found.
        recorder: Of what the models are called with.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        transactions: Sequence[Transaction],
        options: GuardOptions,
    ) -> None:
        self._wrapped = models
        self._models = [inner_model(each) for each in models]
        self._transactions = transactions
        self._loss = options.loss
        self._writer = CapsuleWriter(options.capsules) if isinstance(options.capsules, Capsules) else None
        self._seen: dict[str, int] = {}
        self._count = 0
        self.last = ""
        self.recorder = Recorder(models, wants_gradients=options.loss is None)

    def is_due(self, seen: Observation, decision: Decision, in_a_row: int) -> bool:
        """Return whether a step is worth it: something in it is not finite, and it was not looked into lately."""
        not_finite = seen.loss is not None and not math.isfinite(seen.loss)
        if not (not_finite or seen.buffer or not seen.gradients_finite) or decision.action is Action.PROCEED:
            return False
        if seen.buffer and seen.buffers_finite and seen.gradients_finite and not not_finite:
            return False  # a negative variance: probes see what is not finite
        if decision.by_scaler and not seen.buffer and in_a_row < LEAST_REFUSED:
            return False
        last = self._seen.get(_key(seen))
        return self._count < MOST and (last is None or seen.step - last >= PAUSE)

    def investigate(self, seen: Observation, decision: Decision) -> Incident:
        """Run the batch again, and say what was found. Everything is as it was before, at the end."""
        self._seen[_key(seen)] = seen.step
        self._count += 1
        calls = self.recorder.calls
        why = self._why_not(calls)
        rerun = self._rerun(calls, seen)
        with self._as_it_was():
            mine = Localisation(cause=Cause.UNKNOWN, note=why) if why else self._found(rerun, seen)
            rank, found = self._agreed(mine)
            if found.cause is not Cause.UNKNOWN:
                self.last = found.sentence + (f" ({found.how})" if found.how else "")
            elif self._count == 1:  # of a model that is not called itself the children are watched from the next step on
                self._seen.clear()
            incident = self._incident(rerun, seen, decision, found, rank)
            if why or self._writer is None or mine != found or self._writer.is_full:
                return incident
            self._restore()
            return replace(incident, capsule=self._writer.write(rerun, incident))

    def _incident(
        self, rerun: Rerun, seen: Observation, decision: Decision, found: Localisation, rank: int | None
    ) -> Incident:
        remedies = () if _shares_statistics(self._wrapped) or not rerun.calls else tried(rerun, found)
        is_scaled = seen.scale > 1 and found.backward and found.cause is Cause.LOSS and found.value != "NaN"
        by_scale = is_scaled or any(each.helped and each.kind is Kind.SCALE for each in remedies)
        return Incident(
            step=seen.step,
            what=_what(seen),
            undone=_undone(decision),
            found=found,
            code=Code.SCALE_TOO_HIGH if by_scale else cause_of(found),
            remedies=remedies,
            rank=rank,
            loss=seen.loss,
        )

    def _rerun(self, calls: Sequence[Call], seen: Observation) -> Rerun:
        batch = self.recorder.batch
        return Rerun(
            models=self._models,
            calls=calls,
            restore=self._restore,
            loss=self._loss if batch is not None else None,
            batch=batch,
            scale=seen.scale,
        )

    def _found(self, rerun: Rerun, seen: Observation) -> Localisation:
        finite = seen.loss is None or math.isfinite(seen.loss)
        try:
            return localise(rerun, loss_finite=finite, divides=not _shares_statistics(self._wrapped))
        except Exception as error:  # the user's code may raise anything when it is run once more
            return Localisation(cause=Cause.UNKNOWN, note=f"running it again raised {type(error).__name__}: {error}")

    def _why_not(self, calls: Sequence[Call]) -> str:
        """Say why the batch cannot be run again; empty if it can. Ranks that share statistics all can, or none."""
        why = ""
        if not calls:
            why = "the model's call was not seen: it is compiled in place, or not made through the model or its children"
        elif not all(each.is_intact for each in calls):
            why = "the batch was overwritten before it could be run again"
        if _shares_statistics(self._wrapped) and worst(int(bool(why)), self._wrapped) and not why:
            why = "another rank could not run its batch again"
        return why

    def _restore(self) -> None:
        for transaction in self._transactions:
            transaction.buffers.restore()

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        named = [(plain(name), module) for model in self._models for name, module in model.named_modules()]
        now = BufferStore(named)
        now.save()
        devices = list({each.device for model in self._models for each in model.parameters()})
        try:
            with rerunning(), rng_kept(devices):
                yield
        finally:
            now.restore()

    def _agreed(self, found: Localisation) -> tuple[int | None, Localisation]:
        """Return what the first rank found that found anything, with its number."""
        every = gathered(found, self._wrapped)
        if every is None:
            return None, found
        told = (at for at, each in enumerate(every) if each.cause not in (Cause.NOT_AGAIN, Cause.UNKNOWN))
        rank = next(told, 0)
        return rank, every[rank]


def _key(seen: Observation) -> str:
    return seen.origin or "the loss"


def _shares_statistics(models: Sequence[nn.Module]) -> bool:
    """Return whether a forward pass needs all ranks."""
    return trained_together(models) and any(
        isinstance(each, nn.SyncBatchNorm) for model in models for each in model.modules()
    )


def _what(seen: Observation) -> str:
    """Say what the sensors saw."""
    found = []
    if seen.loss is not None and not math.isfinite(seen.loss):
        found.append(f"the loss is {seen.loss:g}")
    if seen.buffer:
        found.append(f"the forward pass damaged {seen.buffer}")
    if not seen.gradients_finite:
        found.append(f"the gradient of {seen.gradient or 'another rank'} is not finite")
    return "; ".join(found)


def _undone(decision: Decision) -> str:
    """Say what becomes of the step."""
    if decision.by_scaler:
        return "the GradScaler leaves the step out; buffers are as they were before it"
    return {
        Action.REFUSE: "the step did not happen: weights, buffers, optimizer and schedule are as they were before it",
        Action.ROLL_BACK: "the run goes back to a snapshot",
        Action.STOP: "the run is stopped; weights are as they were before this step",
    }.get(decision.action, "nothing: the step does no harm, and counts")
