"""`torchmend.Guard`: keeps a training run healthy, a step at a time."""

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn
from torch.optim import Optimizer

from torchmend.facts.errors import UserError
from torchmend.live.guard.averages import watch_average
from torchmend.live.guard.clipping import Clipper
from torchmend.live.guard.events import Events
from torchmend.live.guard.explicit import Step
from torchmend.live.guard.health import Health
from torchmend.live.guard.holding import HeldScaler, hold_average, hold_scheduler
from torchmend.live.guard.judging import Judge
from torchmend.live.guard.lazy import LazyTransaction
from torchmend.live.guard.micro import MicroBatches
from torchmend.live.guard.options import as_list, listed, one_element, options_of, refuse_unsupported
from torchmend.live.guard.preflight import inspect, watch_loads, watch_starved
from torchmend.live.guard.ranks import warn_if_alone
from torchmend.live.guard.sensing.catalogue import Sensor, chosen
from torchmend.live.guard.sensing.sampling import SampledForward, SampledUpdates
from torchmend.live.guard.states import plain_policy_state, restored_policy_state
from torchmend.live.guard.transaction import Transaction
from torchmend.live.ownership import owned_modules
from torchmend.live.wrapping import Wrapping

logger = logging.getLogger("torchmend.guard")

OFF = "TORCHMEND_GUARD"
"""The environment variable that switches every guard off when it is `off` or `0`."""


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
        options: Fields of `GuardOptions`, by name.

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
        **options: Any,
    ) -> None:
        self.models = listed(model, nn.Module, "model")
        self.optimizers = listed(optimizer, Optimizer, "optimizer")
        self.options = options_of(options)
        self.scaler = scaler
        self.events = Events(
            Path(self.options.log) if self.options.log is not None else None,
            self.options.writer,
            time.time,
            observe_only=self.options.observe_only,
        )
        schedulers, averages = as_list(scheduler), as_list(ema)
        self._judge = Judge(self.models, self.optimizers, schedulers, averages, scaler, self.options, self.events)
        self.transactions, self.evaluation = self._judge.transactions, self._judge.evaluation
        self._sensors = chosen(self.options.sensors)
        self._wrapping = Wrapping()
        self._steps: list[int] = [0] * len(self.optimizers)
        self._samples: list[dict[str, Any]] = []
        clip = None if self.options.observe_only else self.options.clip
        self._clippers = [Clipper(clip) for _ in self.optimizers] if clip else []
        if os.environ.get(OFF, "").lower() in ("off", "0"):
            logger.warning("The guard is switched off by %s.", OFF)
            return
        for each in self.models:
            refuse_unsupported(each)
        self._attach(schedulers, averages)

    @property
    def steps(self) -> int:
        """How many steps came to their end, of the optimizer that took most."""
        return max(self._counted())

    @property
    def gradient_norm(self) -> float:
        """The 2-norm of all gradients in the step that was judged last, before clipping, without the scaler."""
        return self._judge.gradient_norm

    @property
    def repaired(self) -> int:
        """How many elements of statistics were repaired so far, after loads and before evaluations."""
        return self.evaluation.repaired

    def _counted(self) -> list[int]:
        """Return the steps of each optimizer; after detaching, or switched off, as they were."""
        return [transaction.steps for transaction in self.transactions] or self._steps

    # Attaching

    def _attach(self, schedulers: list[Any], averages: list[Any]) -> None:
        warn_if_alone(self.models)
        acts = not self.options.observe_only
        judge = self._judge
        owned = owned_modules(self.models, self.optimizers)
        for at, (optimizer, modules) in enumerate(zip(self.optimizers, owned, strict=True)):
            transaction = (LazyTransaction if self.options.lazy else Transaction)(
                optimizer,
                self.models,
                modules,
                judge.judge,
                judge.closed,
                acts=acts,
                safe=self.options.safe_optimizers,
                sensors=self._sensors,
            )
            transaction.clipper = self._clippers[at] if self._clippers else None
            transaction.micro = MicroBatches(modules) if self.options.drop_micro_batches and acts else None
            transaction.sampled_forward = judge.forward
            if Sensor.UPDATES in self._sensors:
                transaction.sampled_updates = SampledUpdates(
                    optimizer, transaction.named_parameters, self.options.sample_every, judge.tell
                )
            transaction.attach(modules, self._wrapping)
            self.transactions.append(transaction)
        judge.forward.attach(self._wrapping)
        if judge.investigator is not None:
            judge.investigator.recorder.attach()
        judge.reservoir.attach(self._wrapping)
        self.evaluation.attach(self._wrapping)
        self._hold(schedulers, averages)
        if Sensor.SETUP in self._sensors:
            judge.tell(tuple(inspect(self.models, self.optimizers)))
            for optimizer in self.optimizers:
                watch_loads(optimizer, judge.tell, self._wrapping)
                watch_starved(optimizer, judge.tell_repaired, self._wrapping, acts=acts)
        self.evaluation.check()

    def _hold(self, schedulers: list[Any], averages: list[Any]) -> None:
        """Have what has no hooks step only when its optimizer did."""
        acts = not self.options.observe_only
        if self.scaler is not None:
            HeldScaler(self.scaler, self.transactions, self._wrapping, acts=acts)
        if acts and self.options.hold_scheduler:
            self._judge.held += [hold_scheduler(each, self.transactions, self._wrapping) for each in schedulers]
        if Sensor.AVERAGES in self._sensors:
            for each in averages:
                watch_average(each, self.models, self._judge.tell, self._wrapping)
        if acts:
            self._judge.held += [hold_average(each, self.transactions, self._wrapping) for each in averages]

    def detach(self) -> None:
        """Take away every hook and override, and gradients that were refused; the run goes on unguarded."""
        for transaction in self.transactions:
            transaction.let_go()
        self._wrapping.undo()
        self._steps, self._samples = self._counted(), self._remembered()
        self._judge.reservoir.forget()
        if self._judge.investigator is not None:
            self._judge.investigator.recorder.detach()
        self.transactions.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    # Judging

    def observe(self, loss: Tensor, batch: Any = None) -> Tensor:
        """Tell the loss, before `backward`; it is read together with everything else.

        Args:
            loss: A tensor of one element, unscaled.
            batch: What it was made of, for the option `loss` to make it again if the step goes wrong; kept until then.

        Returns:
            The same tensor.

        Raises:
            UserError: It is something else.
        """
        for transaction in self.transactions:
            transaction.loss = one_element(loss).detach()
        if self._judge.investigator is not None and self.transactions:  # else nothing would let go of it
            self._judge.investigator.recorder.batch = batch
        return loss

    def check(self) -> Health:
        """Look at weights, statistics, optimizer state and averages; repair what can be, go back or stop if not.

        Under DistributedDataParallel all ranks go back or stop together, so that all have to call this together.

        Raises:
            TrainingStoppedError: Something is damaged that no repair and no snapshot can mend.
        """
        health = self._judge.recovery.check(self.steps)
        self._judge.go_back()
        return health

    # Explicit mode

    @contextmanager
    def step(self) -> Iterator[Step]:
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
        """Check, and repair, normalisation statistics before an evaluation that reads them in a way no hook sees.

        Nothing is done once the guard is detached, or where it is switched off.
        """
        if self.transactions:
            self.evaluation.check()
        yield

    # What happened

    def summary(self) -> str:
        """Say in a few lines what the guard did."""
        done = (
            ", ".join(f"{count} x {action}" for action, count in sorted(self.events.counts.items())) or "nothing to do"
        )
        origins = Counter(each.origin for each in self.events.decisions if each.origin).most_common(3)
        where = "".join(f"\n  {count} at {origin}" for origin, count in origins)
        return f"{self.steps} steps guarded: {done}{where}"

    def _sampled(self) -> list[SampledForward | SampledUpdates]:
        forward = [each.sampled_forward for each in self.transactions[:1]]  # one that all share
        updates = [each.sampled_updates for each in self.transactions]
        return [each for each in (*forward, *updates) if each is not None]

    def _remembered(self) -> list[dict[str, Any]]:
        """Return what sampled sensors know; after detaching, or switched off, as it was."""
        return [each.state_dict() for each in self._sampled()] or self._samples

    def state_dict(self) -> dict[str, Any]:
        """Return what the guard remembers, as plain values."""
        return {
            "steps": self._counted(),
            "counts": dict(self.events.counts),
            "policy": [plain_policy_state(state) for state in self._judge.memory.states],
            "norms": [list(each.norms) for each in self._clippers],
            "samples": self._remembered(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what a guard of as many optimizers remembered.

        Raises:
            UserError: It is of another number of optimizers.
        """
        count = len(self.optimizers)
        if len(state["policy"]) != count:
            raise UserError(f"The state is of a guard of {len(state['policy'])} optimizers, not of {count}.")
        self._steps = list(state["steps"])
        for transaction, steps in zip(self.transactions, self._steps, strict=False):  # none where it is switched off
            transaction.steps = steps
        for clipper, norms in zip(self._clippers, state.get("norms", ()), strict=False):
            clipper.norms.extend(norms)
        self._samples = list(state.get("samples", ()))
        for each, remembered in zip(self._sampled(), self._samples, strict=False):
            each.load_state_dict(remembered)
        self.events.counts = Counter(state["counts"])
        self._judge.memory.states = [restored_policy_state(each) for each in state["policy"]]
