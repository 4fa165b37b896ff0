"""A step that went wrong, investigated: its batch is run again under probes, and everything is put back after it."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from torchmend.facts.codes import Code
from torchmend.live.forensics.batches import reachable
from torchmend.live.forensics.calls import Call, Recorder
from torchmend.live.forensics.capsules import Capsules, CapsuleWriter
from torchmend.live.forensics.causes import cause_of
from torchmend.live.forensics.findings import Cause, Localisation
from torchmend.live.forensics.incidents import Incident, Kind
from torchmend.live.forensics.localising import localise, said
from torchmend.live.forensics.remedies import tried
from torchmend.live.forensics.rerun import Rerun
from torchmend.live.forensics.untouched import Untouched
from torchmend.live.guard.buffers import BufferStore
from torchmend.live.guard.decisions import Action, Decision, Observation
from torchmend.live.guard.options import GuardOptions
from torchmend.live.guard.ranks import by_rank, gathered, named, place_among
from torchmend.live.guard.transaction import Transaction
from torchmend.live.ownership import inner_model, plain
from torchmend.live.rerunning import rerunning
from torchmend.live.rng import rng_kept

PAUSE = 50
"""Steps until a fault with the same origin is investigated again."""

MOST = 32
"""Investigations in a run."""

MOST_SECONDS = 60.0
"""That one takes before no further part of the batch, and no further change, is tried."""

BY_CALLS = "found by the model's call alone; the loss, made again, went another way, as by random numbers of its own"
"""What is said of a failure that the loss did not show."""

OVERWRITES = (
    "the loss code writes into its batch, so that it was made of other numbers: give observe() a copy from before"
)
"""What is said where a batch was another by then."""

LEAST_REFUSED = 2
"""Steps in a row that a GradScaler has to refuse, since single ones are its ordinary business."""


class Investigator:
    """Looks into steps that were refused; does nothing in others.

    Args:
        models: As the guard was given them.
        transactions: Of all optimizers; filled when the guard is attached.
        options: Of the guard.
        clock: Tells seconds.

    Attributes:
        last: Where the last failure began, in words; empty if none was found.
        recorder: Of what the models are called with.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        transactions: Sequence[Transaction],
        options: GuardOptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wrapped = models
        self._models = [inner_model(each) for each in models]
        self._transactions = transactions
        self._loss = options.loss
        self._acts = not options.observe_only
        self._writer = CapsuleWriter(options.capsules) if isinstance(options.capsules, Capsules) else None
        self._seen: dict[str, int] = {}
        self._count = 0
        self._clock = clock
        self._until = 0.0
        self._has_looked = False
        self._untouched: Untouched | None = None
        self.last = ""
        self.recorder = Recorder(models, wants_gradients=options.loss is None)

    def is_due(self, seen: Observation, decision: Decision, in_a_row: int) -> bool:
        """Return whether a step is worth it: something in it is not finite, and it was not looked into lately."""
        if self.recorder.calls:
            self._has_looked = False
        elif self._has_looked and self.recorder.was_judged:
            return False  # another optimizer's side of the same backward pass
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
        """Run the batch again, and say what was found. Everything is as it was before, at the end.

        Where several ranks train the models all come here, each runs its own batch, and they tell the same.
        """
        self._seen[_key(seen)] = seen.step
        self._count += 1
        self._has_looked = True
        calls = self.recorder.calls
        why = self._why_not(calls)
        self._until = self._clock() + MOST_SECONDS
        with self._as_it_was():
            rerun = self._rerun(calls, seen)
            found = Localisation(cause=Cause.UNKNOWN, note=why) if why else self._found(rerun, seen)
            if found.cause is Cause.NOT_AGAIN and rerun.loss is not None and not found.exchanges:
                rerun, found = self._by_calls(rerun, seen, found)
            every = gathered(self._incident(rerun, seen, decision, found), self._wrapped)
            showing = [at for at, each in enumerate(every) if each.found.is_known]
            at = showing[0] if showing else 0
            incident = every[at]
            if 0 < len(showing) < len(every):
                incident = replace(incident, rank=named(at, self._wrapped))
            if incident.found.is_known:
                self.last = incident.found.sentence + (f" ({incident.found.how})" if incident.found.how else "")
            elif self._count == 1:  # children of a model that is not called itself are watched from the next step on
                self._seen.clear()
            return replace(incident, capsule=self._kept(rerun, incident, at) if not why else "")

    def _kept(self, rerun: Rerun, incident: Incident, at: int) -> str:
        """Have the rank that the incident is of write a capsule; return its folder, or nothing."""
        if self._writer is None or self._writer.is_full:
            return ""
        self._restore()
        written = self._writer.write(rerun, incident) if place_among(self._wrapped) == at else ""
        folder = "".join(gathered(written, self._wrapped))
        self._writer.written += bool(folder)  # on all ranks alike
        return folder

    def _incident(self, rerun: Rerun, seen: Observation, decision: Decision, found: Localisation) -> Incident:
        remedies = tried(rerun, found, self._is_late) if found.is_known and not found.exchanges else ()
        is_scaled = (
            seen.scale > 1
            and (found.backward or found.pass_unknown)
            and found.cause is Cause.LOSS
            and found.value != "NaN"
        )
        by_scale = is_scaled or any(each.helped and each.kind is Kind.SCALE for each in remedies)
        return Incident(
            step=seen.step,
            what=_what(seen),
            undone=_undone(decision, acts=self._acts, is_part=seen.is_part),
            found=found,
            code=Code.SCALE_TOO_HIGH if by_scale else cause_of(found),
            remedies=remedies,
            rank=seen.rank,
            loss=seen.own_loss,
            with_loss=rerun.loss is not None,
        )

    def _is_late(self) -> bool:
        return self._clock() > self._until

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
        finite = None if seen.own_loss is None else math.isfinite(seen.own_loss)
        try:
            return localise(rerun, loss_finite=finite, enough=self._is_late)
        except Exception as error:  # the user's code may raise anything when it is run once more
            return Localisation(cause=Cause.UNKNOWN, note=f"running it again raised {said(error)}")

    def _by_calls(self, rerun: Rerun, seen: Observation, found: Localisation) -> tuple[Rerun, Localisation]:
        """Look at the models' calls alone where the loss shows nothing: it may draw random numbers before them."""
        calls = replace(rerun, loss=None)
        alone = self._found(calls, seen)
        if alone.cause is Cause.MODULE:
            return calls, replace(alone, note="; ".join(filter(None, (alone.note, BY_CALLS))))
        if self._untouched is not None and self._untouched.has_written(reachable(rerun.batch)):
            return rerun, replace(found, note=OVERWRITES)
        return rerun, found

    def _why_not(self, calls: Sequence[Call]) -> str:
        """Say why the batch cannot be run again; empty if it can. Ranks may exchange values in it: all can, or none."""
        why = ""
        if not calls and self.recorder.was_judged:
            why = "its forward pass had a backward pass before this one, after which the batch was let go"
        elif not calls:
            why = (
                "the model's call was not seen: it is compiled in place, or not made through the model or its children"
            )
        elif not all(each.is_intact for each in calls):
            why = "the batch was overwritten before it could be run again"
        if any(by_rank(int(bool(why)), self._wrapped)) and not why:
            why = "another rank could not run its batch again"
        return why

    def _restore(self) -> None:
        for transaction in self._transactions:
            transaction.buffers.restore()
        if self._untouched is not None:
            self._untouched.restore()

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        now = BufferStore([(plain(name), each) for model in self._models for name, each in model.named_modules()])
        now.save()
        devices = list({each.device for model in self._models for each in model.parameters()})
        try:
            with rerunning(), rng_kept(devices), Untouched(self._models, self.recorder.tensors()) as self._untouched:
                yield
        finally:
            self._untouched = None
            now.restore()


def _key(seen: Observation) -> str:
    return seen.origin or "the loss"


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


def _undone(decision: Decision, *, acts: bool, is_part: bool) -> str:
    """Say what becomes of the step."""
    if not acts:
        return "nothing: the guard only observes, and the step goes on as it would without it"
    if decision.by_scaler:
        return "the GradScaler leaves the step out; buffers are as they were before it"
    if is_part and decision.action is Action.REFUSE:
        return "this micro-batch does not count; the step is made of the others, if there are any"
    return {
        Action.REFUSE: "the whole step: weights, buffers, optimizer and schedule are as before",
        Action.ROLL_BACK: "the run goes back to a snapshot",
        Action.STOP: "the run is stopped; weights are as they were before this step",
    }.get(decision.action, "nothing: the step does no harm, and counts")
