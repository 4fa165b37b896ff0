"""`torchmend.Guard`: keeps a training run healthy, a step at a time."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Self

from torch import Tensor, nn
from torch.optim import Optimizer

from torchmend.facts.errors import TrainingStoppedError, UserError
from torchmend.live.guard.decisions import Action, Decision, Observation
from torchmend.live.guard.evaluation import Evaluation
from torchmend.live.guard.ownership import owned_modules
from torchmend.live.guard.policy import Policy, PolicyState, decide
from torchmend.live.guard.ranks import agree
from torchmend.live.guard.sensors import Sight
from torchmend.live.guard.states import restored_policy_state
from torchmend.live.guard.transaction import Transaction
from torchmend.live.guard.wrapping import Wrapping

logger = logging.getLogger("torchmend.guard")

OFF = "TORCHMEND_GUARD"
"""The environment variable that switches every guard off when it is `off` or `0`."""

_UNSUPPORTED = ("FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine")

Callback = Callable[[Decision], Decision | None]
"""Told every decision but PROCEED; what it returns, if anything, is done instead."""


class Guard:
    """Watches the steps of a training loop, and keeps those from happening that would damage it.

    The loop stays as it is. At the end of each backward pass gradients and buffers are looked at, with one read from
    the device; a step that must not count is refused as a whole: gradients dropped, buffers as they were before the
    forward pass, the optimizer not moved, scheduler and EMA held.

    Args:
        model: One module or several; a compiled or DDP-wrapped one as it is trained.
        optimizer: One optimizer or several, made already.
        scaler: The `GradScaler`, if there is one.
        scheduler: One learning-rate scheduler or several; those that step with the optimizer are held with it.
        ema: One averaged model or several, with `update_parameters` or `update`; not updated after a refused step.
        policy: How to decide.
        observe_only: Decide and report, and change nothing.
        hold_scheduler: Whether a scheduler that steps with the optimizer stays where it is when a step is refused.
        safe_optimizers: Whether optimizers that are not torch's own do nothing at all without gradients; else they are
            put back after a refused step.
        on_decision: Told every decision but to proceed; may return another.

    Raises:
        UserError: What is passed cannot be guarded.
    """

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module],
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        scaler: Any = None,
        scheduler: Any = None,
        ema: Any = None,
        policy: Policy | None = None,
        observe_only: bool = False,
        hold_scheduler: bool = True,
        safe_optimizers: bool = False,
        on_decision: Callback | None = None,
    ) -> None:
        self.models = _listed(model, nn.Module, "model")
        self.optimizers = _listed(optimizer, Optimizer, "optimizer")
        self.policy = policy or Policy()
        self.scaler = scaler
        self.observe_only = observe_only
        self.hold_scheduler = hold_scheduler
        self.decisions: list[Decision] = []
        self.counts: Counter[str] = Counter()
        self._callback = on_decision
        self._wrapping = Wrapping()
        self._policy_states = [PolicyState() for _ in self.optimizers]
        self._to_update: set[int] = set()
        self._held: list[_Held] = []
        self.transactions: list[Transaction] = []
        if os.environ.get(OFF, "").lower() in ("off", "0"):
            logger.warning("The guard is switched off by %s.", OFF)
            return
        for each in self.models:
            _refuse_unsupported(each)
        self._attach(safe_optimizers, _as_list(scheduler), _as_list(ema))

    @property
    def steps(self) -> int:
        """How many steps came to their end, of the optimizer that took most."""
        return max((transaction.steps for transaction in self.transactions), default=0)

    # Attaching

    def _attach(self, safe: bool, schedulers: list[Any], emas: list[Any]) -> None:
        owned = owned_modules(self.models, self.optimizers)
        for optimizer, modules in zip(self.optimizers, owned, strict=True):
            transaction = Transaction(
                optimizer, self.models, modules, self._judge, self._closed, acts=not self.observe_only, safe=safe
            )
            transaction.attach(modules, self._wrapping)
            self.transactions.append(transaction)
        self.evaluation = Evaluation(self.models, self.transactions, acts=not self.observe_only)
        self.evaluation.attach(self._wrapping)
        if self.scaler is not None:
            self._wrapping.override(self.scaler, step=self._scaler_step, update=self._scaler_update)
        for scheduler in schedulers if self.hold_scheduler and not self.observe_only else ():
            self._hold(scheduler, "step", _transactions_of(scheduler, self.transactions))
        for ema in emas if not self.observe_only else ():
            name = next((name for name in ("update_parameters", "update") if hasattr(type(ema), name)), None)
            if name is None:
                raise UserError(f"A {type(ema).__name__} has neither update_parameters nor update; leave it out.")
            self._hold(ema, name, self.transactions)

    def _hold(self, owner: Any, name: str, transactions: Sequence[Transaction]) -> None:
        held = _Held(transactions)
        self._held.append(held)
        self._wrapping.override(owner, **{name: held})

    def detach(self) -> None:
        """Take away every hook and override; the run goes on unguarded."""
        self._wrapping.undo()
        self.transactions.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    # Judging

    def observe(self, loss: Tensor) -> Tensor:
        """Tell the loss, before `backward`; it is read together with everything else.

        Args:
            loss: A scalar tensor, unscaled.

        Returns:
            The same tensor.
        """
        for transaction in self.transactions:
            transaction.loss = loss.detach()
        return loss

    def _judge(self, transaction: Transaction, sight: Sight) -> Decision:
        at = self.transactions.index(transaction)
        scaled = self.scaler is not None and self.scaler.is_enabled()
        sight = agree(sight, self.models)
        seen = Observation(
            step=transaction.steps,
            gradient_norm=sight.gradient_norm,
            gradients_finite=sight.gradients_finite,
            loss=sight.loss,
            scaled=scaled,
            buffers_finite=sight.buffers_finite,
            variances_valid=sight.variances_valid,
            gradient=sight.gradient,
            buffer=sight.buffer,
            were_sound=self.evaluation.were_sound,
        )
        self._policy_states[at], decision = decide(self.policy, self._policy_states[at], seen)
        if decision.action is Action.PROCEED:
            return decision
        return self._announced(decision)

    def _announced(self, decision: Decision) -> Decision:
        if self._callback is not None:
            decision = self._callback(decision) or decision
        self.decisions.append(decision)
        self.counts[decision.action.value] += 1
        level = logging.INFO if decision.action is Action.LOG or decision.by_scaler else logging.WARNING
        logger.log(level, "%s", told(decision, observe_only=self.observe_only))
        if decision.action is Action.STOP and not self.observe_only:
            for transaction in self.transactions:
                transaction.abandon()
            raise TrainingStoppedError(decision.explanation)
        return decision

    def _closed(self, transaction: Transaction, happened: bool) -> None:
        self.evaluation.training_went_on()
        for held in self._held:
            held.note(transaction, happened)

    # What has no hooks

    def _scaler_step(self, original: Callable[..., Any], optimizer: Optimizer, *arguments: Any, **keywords: Any) -> Any:
        transaction = next((each for each in self.transactions if each.optimizer is optimizer), None)
        if transaction is None:
            self._to_update.add(id(optimizer))
            return original(optimizer, *arguments, **keywords)
        if transaction.refused is not None and not transaction.refused.by_scaler:
            transaction.close(happened=False)
            return None
        self._to_update.add(id(optimizer))
        transaction.stepped = False
        result = original(optimizer, *arguments, **keywords)
        if not transaction.stepped:  # the scaler refused, and no optimizer hook was called
            if not self.observe_only:
                transaction.buffers.restore()
            transaction.close(happened=False)
        return result

    def _scaler_update(self, original: Callable[..., Any], new_scale: Any = None) -> Any:
        """Update the scale, unless every step since the last time was refused here: those are no successes."""
        stepped, self._to_update = self._to_update, set()
        if new_scale is None and not stepped and self.scaler.is_enabled():
            new_scale = self.scaler.get_scale()
        return original(new_scale)

    # Explicit mode

    @contextmanager
    def step(self) -> "Iterator[Step]":
        """Make a step of a loop explicit: `with guard.step() as step: ...; step.backward(loss)`.

        An exception inside undoes what the forward pass wrote.
        """
        for transaction in self.transactions:
            transaction.begin()
        try:
            yield Step(self)
        except BaseException:
            for transaction in self.transactions:
                transaction.abandon()
            raise

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Check, and repair, normalisation statistics before an evaluation that reads them in a way no hook sees."""
        self.evaluation.check()
        yield

    # What happened

    def summary(self) -> str:
        """Say in a few lines what the guard did."""
        done = ", ".join(f"{count} x {action}" for action, count in sorted(self.counts.items())) or "nothing to do"
        origins = Counter(each.origin for each in self.decisions if each.origin).most_common(3)
        where = "".join(f"\n  {count} at {origin}" for origin, count in origins)
        return f"{self.steps} steps guarded: {done}{where}"

    def state_dict(self) -> dict[str, Any]:
        """Return what the guard remembers, as plain values."""
        return {
            "steps": [transaction.steps for transaction in self.transactions],
            "counts": dict(self.counts),
            "policy": [asdict(state) for state in self._policy_states],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what a guard of as many optimizers remembered.

        Raises:
            UserError: It is of another number of optimizers.
        """
        if len(state["policy"]) != len(self._policy_states):
            raise UserError(
                f"The state is of a guard of {len(state['policy'])} optimizers, not of {len(self._policy_states)}."
            )
        for transaction, steps in zip(self.transactions, state["steps"], strict=True):
            transaction.steps = steps
        self.counts = Counter(state["counts"])
        self._policy_states = [restored_policy_state(each) for each in state["policy"]]


class Step:
    """One step of a loop, made explicit.

    Args:
        guard: Which guard's.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def backward(self, loss: Tensor, **keywords: Any) -> None:
        """Observe the loss and go backward, through the scaler if there is one."""
        self._guard.observe(loss)
        scaler = self._guard.scaler
        (loss if scaler is None else scaler.scale(loss)).backward(**keywords)

    @property
    def refused(self) -> bool:
        """Whether the step, as far as it went, will not happen."""
        return any(each.refused is not None for each in self._guard.transactions)


class _Held:
    """Calls a scheduler's or an EMA's method, unless all that happened since its last call is one refused step.

    A scheduler that steps once an epoch has seen many steps by then, and is never held.

    Args:
        transactions: Whose steps count.
    """

    def __init__(self, transactions: Sequence[Transaction]) -> None:
        self._transactions = transactions
        self._since: list[tuple[Transaction, bool]] = []

    def note(self, transaction: Transaction, happened: bool) -> None:
        """Note the end of a step."""
        if transaction in self._transactions:
            self._since = [*self._since[-len(self._transactions) :], (transaction, happened)]

    def __call__(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        since, self._since = self._since, []
        once_each = len({id(transaction) for transaction, _ in since}) == len(since) > 0
        if once_each and not any(happened for _, happened in since):
            return None
        return original(*arguments, **keywords)


def told(decision: Decision, *, observe_only: bool = False) -> str:
    """Say a decision in one line."""
    verb = f"would {decision.action.value}" if observe_only else decision.action.value
    why = "; ".join(f"{each.code.value} {each.detail or each.message}" for each in decision.findings)
    return f"step {decision.step}: {verb}{' (by the GradScaler)' if decision.by_scaler else ''}: {why}"


def _listed(given: Any, kind: type, what: str) -> list[Any]:
    found = _as_list(given)
    if not found or not all(isinstance(each, kind) for each in found):
        names = ", ".join(type(each).__name__ for each in found) or "nothing"
        raise UserError(f"Got {names} as {what}. Pass a {kind.__module__}.{kind.__name__}, or a list of them.")
    return found


def _as_list(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]


def _refuse_unsupported(model: nn.Module) -> None:
    names = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    found = next((name for name in _UNSUPPORTED if name in names), None)
    if found is not None:
        raise UserError(f"The guard does not support {found} yet: its parameters are not where a step could be undone.")
    if getattr(model, "_compiled_call_impl", None) is not None:
        raise UserError(
            "This module was compiled in place (module.compile()), so hooks added now would never be called. "
            "Make the guard first, or pass the wrapper that torch.compile(module) returns."
        )


def _transactions_of(scheduler: Any, transactions: Sequence[Transaction]) -> list[Transaction]:
    optimizer = getattr(scheduler, "optimizer", None)
    return [each for each in transactions if each.optimizer is optimizer] or list(transactions)
