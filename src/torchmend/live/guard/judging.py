"""Between what transactions see and what is done: decides, tells, goes back, and stops."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from torchmend.facts.errors import TrainingStoppedError
from torchmend.facts.findings import Finding
from torchmend.live.guard.decisions import Action, Decision, Observation
from torchmend.live.guard.evaluation import Evaluation
from torchmend.live.guard.events import Events
from torchmend.live.guard.holding import Held
from torchmend.live.guard.investigating import Investigator
from torchmend.live.guard.options import GuardOptions, policy_of
from torchmend.live.guard.policy import decide
from torchmend.live.guard.ranks import agree, with_rank
from torchmend.live.guard.rates import lowest
from torchmend.live.guard.recovery import Recovery
from torchmend.live.guard.reservoir import Reservoir
from torchmend.live.guard.sensing.catalogue import chosen
from torchmend.live.guard.sensing.sampling import SampledForward
from torchmend.live.guard.states import Memory
from torchmend.live.guard.transaction import ABANDONED, Transaction


class Judge:
    """Judges the steps of all optimizers, and has everything that lasts looked after.

    Args:
        models: As the guard was given them.
        optimizers: The same.
        schedulers: The same.
        averages: The same.
        scaler: The same.
        options: Of the guard.
        events: Told every decision.

    Attributes:
        transactions: Of the optimizers; filled when the guard is attached.
        held: What steps along; the same.
        gradient_norm: Of the step that was judged last.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        optimizers: Sequence[Optimizer],
        schedulers: Sequence[Any],
        averages: Sequence[Any],
        scaler: Any,
        options: GuardOptions,
        events: Events,
    ) -> None:
        acts = not options.observe_only
        self._models, self._scaler, self._options, self._events = models, scaler, options, events
        self._policy = policy_of(options)
        self._returning: Decision | None = None
        self.transactions: list[Transaction] = []
        self.held: list[Held] = []
        self.gradient_norm = 0.0
        self.memory = Memory(len(optimizers))
        self.reservoir = Reservoir(models, options.reservoir if acts and not options.lazy else 0)
        self.recovery = Recovery(
            models, optimizers, schedulers, averages, [scaler, self.memory], options, self._announced
        )
        self.evaluation = Evaluation(models, self.transactions, self.reservoir, self.recovery.forget, acts=acts)
        investigates = options.localise and not options.lazy
        self.investigator = Investigator(models, self.transactions, options) if investigates else None
        self.forward = SampledForward(
            models,
            chosen(options.sensors),
            options.sample_every,
            lambda: self.steps,
            self.tell,
            has_scaler=scaler is not None,
        )

    @property
    def steps(self) -> int:
        """How many steps came to their end, of the optimizer that took most."""
        counts = [each.steps for each in self.transactions] or [0]  # tracers know no default of max
        return max(counts)

    def judge(self, transaction: Transaction, seen: Observation) -> Decision:
        """Decide what happens to a step, and begin to carry it out.

        Args:
            transaction: Of the step.
            seen: What it saw.

        Raises:
            TrainingStoppedError: Going on would not help.
        """
        at = self.transactions.index(transaction)
        if not self.evaluation.were_sound:  # before the ranks agree: what one passes over, none may refuse alone
            seen = replace(seen, buffers_finite=True, variances_valid=True, buffer="")
        mine = seen
        seen = replace(
            agree(seen, self._models),
            scaled=self._scaler is not None and self._scaler.is_enabled(),
            update_ratio=transaction.sampled_updates.ratio if transaction.sampled_updates is not None else 0.0,
            is_part=transaction.micro is not None,
            can_go_back=self.recovery.can_go_back(self.steps),
            lowest_rate=lowest(transaction.optimizer),
        )
        self.gradient_norm = seen.gradient_norm
        self.memory.states[at], decision = decide(self._policy, self.memory.states[at], seen)
        decision = with_rank(decision, mine, self._models)
        if decision.is_odd and transaction.sampled_updates is not None:
            transaction.sampled_updates.looks_next = True
        if seen.overflowed or not (decision.happens or decision.by_scaler):
            self.recovery.suspect()
        decision = self._investigated(replace(seen, own_loss=mine.loss), decision, self.memory.states[at].in_a_row)
        if decision.is_odd or decision.findings:
            self.recovery.doubt()
        return decision if decision.action is Action.PROCEED else self._announced(decision)

    def _investigated(self, seen: Observation, decision: Decision, in_a_row: int) -> Decision:
        """Have the batch run again if the step is worth it, or the next one looked at where this one cannot be."""
        if self.investigator is None:
            if not decision.happens and (not decision.by_scaler or in_a_row > 1):
                self.forward.seek()
            return decision
        if self.investigator.is_due(seen, decision, in_a_row):
            decision = replace(decision, incident=self.investigator.investigate(seen, decision))
        self.investigator.recorder.end()
        return decision

    def tell(self, findings: Sequence[Finding]) -> None:
        """Log what does no harm to this step."""
        if findings:
            self._events.tell(Decision(action=Action.LOG, step=self.steps, findings=tuple(findings)))

    def tell_repaired(self, findings: Sequence[Finding]) -> None:
        """Announce what was repaired before a step."""
        self._announced(Decision(action=Action.REPAIR, step=self.steps, findings=tuple(findings)))

    def _announced(self, decision: Decision) -> Decision:
        if decision.action is Action.STOP and (where := self._where()):
            decision = replace(decision, explanation=decision.explanation + where)
        if self._options.on_decision is not None:
            decision = self._options.on_decision(decision) or decision
        self._events.tell(decision)
        if self._options.observe_only:
            return decision
        if decision.action is Action.STOP:
            for transaction in self.transactions:
                transaction.abandon()
            raise TrainingStoppedError(decision.explanation)
        if decision.action is Action.LOWER_RATE:
            self.recovery.lower_rates()
        if decision.action is Action.ROLL_BACK:
            self._returning = decision
        return decision

    def _where(self) -> str:
        """Say where the last failure began, if that is known."""
        if self.investigator is not None:
            return f" Where it begins: {self.investigator.last}." if self.investigator.last else ""
        first = self.forward.origin
        return f" In the forward pass the first module to put out NaN or Inf was {first}." if first else ""

    def closed(self, transaction: Transaction, refused: Decision | None) -> None:
        """Take note that a step came to its end.

        Args:
            transaction: Of the step.
            refused: The decision that refused it; None if it happened.
        """
        for held in self.held:
            held.note(transaction, refused is None)
        is_whole = refused is None and (transaction.micro is None or not transaction.micro.dropped)
        self.reservoir.note(happened=is_whole, is_last=not any(each.is_open for each in self.transactions))
        seen = transaction.seen
        self._events.plot(transaction.steps, norm=seen.gradient_norm, loss=seen.loss, happened=refused is None)
        if transaction is self.transactions[0] and self._returning is None and refused is not ABANDONED:
            self.recovery.after_step(transaction.steps)
        self.go_back()

    def go_back(self) -> None:
        """Carry out a return that was decided, now that no step is under way."""
        decision, self._returning = self._returning, None
        if decision is not None:
            for transaction in self.transactions:
                transaction.abandon()
            self.reservoir.forget()
            self.recovery.go_back(decision, self.steps)
            self.memory.put_on_probation(self.steps)
