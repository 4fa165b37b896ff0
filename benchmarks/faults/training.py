"""The training of a case, and the one plain loop that all cases share."""

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from benchmarks.faults.places import Told
from torchmend import TrainingStoppedError


class Act(StrEnum):
    """What a protection did, mildest first."""

    LOG = "log"
    WARN = "warn"
    REPAIR = "repair"
    """State was mended in place."""
    REFUSE = "refuse"
    """The optimizer's step was left out; what the forward pass wrote stays."""
    UNDO = "undo"
    """The step was left out, and all that it wrote was put back."""
    LOWER_RATE = "lower rate"
    ROLL_BACK = "roll back"
    STOP = "stop"

    @property
    def interferes(self) -> bool:
        """Whether the run is another one because of it."""
        return self not in (Act.LOG, Act.WARN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that a protection said or did.

    Args:
        step: At which step of the loop; -1 before the first.
        act: What.
        cause: Codes and words that it gave.
        by_loop: Whether the loop's own GradScaler would have done it without the protection.
    """

    step: int
    act: Act
    cause: str = ""
    by_loop: bool = False


@dataclass(slots=True, kw_only=True)
class Training:
    """What the loop needs.

    Args:
        model: What is trained.
        optimizer: Of its parameters.
        steps: How many.
        loss: Makes the loss of a step, by a forward pass; with `accumulate` of each micro-batch, counted through.
        evaluate: Returns the final metric, higher is better; puts the model into eval mode and back.
        scaler: The loop's own GradScaler, in loops in float16.
        scheduler: Stepped with the optimizer.
        ema: An averaged model, updated after each step.
        clip: The loop's own limit on gradient norms.
        accumulate: Micro-batches in a step.
        evaluate_every: Steps between two evaluations within the run; 0 for none but the last.
        between: What the user's code does before a step begins, besides training.
        save: What it saves after a step, by the saver that it is given.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int
    loss: Callable[[int], Tensor]
    evaluate: Callable[[], float]
    scaler: Any = None
    scheduler: Any = None
    ema: Any = None
    clip: float | None = None
    accumulate: int = 1
    evaluate_every: int = 0
    between: Callable[[int], None] | None = None
    save: "Callable[[int, Saver], None] | None" = None


class Protecting(Protocol):
    """What stands between the loop and its optimizer."""

    events: list[Event]
    told: list[Told]
    now: int

    def train(self) -> None:
        """Take all steps: by `loop`, or by one of its own."""

    def begin(self, step: int) -> None:
        """Begin a step of the loop."""

    def backward(self, loss: Tensor) -> bool:
        """Run the backward pass; return whether it was run."""

    def step(self) -> bool:
        """Step the optimizer; return whether the loop goes on to its schedule and average."""

    def end(self) -> None:
        """End a step of the loop."""

    def save(self, state: Any, path: Path, metric: float | None = None) -> None:
        """Save a state under its name, and beside it as the best one if it has the highest metric so far."""

    def before_evaluation(self) -> None:
        """Look at the model, whose evaluation is next."""

    def close(self) -> None:
        """Note what happened since; the run is over."""


Saver = Callable[[Any, Path, float | None], None]
"""Takes a state, where to save it, and the metric by which the best one is chosen, if any is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended.

    Args:
        metric: The final metric.
        finite: Whether all parameters, buffers and averages are finite, and no variance is below zero.
        events: What the protection said and did.
        seconds: Of the whole run.
        digest: Of every bit of model and average.
        told: The places that the protection named.
    """

    metric: float
    finite: bool
    events: tuple[Event, ...] = field(default=())
    seconds: float
    digest: str
    told: tuple[Told, ...] = field(default=())


def run(training: Training, protection: Protecting) -> Outcome:
    """Train as users do, and evaluate at the end."""
    began = time.perf_counter()
    try:
        protection.train()
    except TrainingStoppedError as error:
        protection.events.append(Event(step=protection.now, act=Act.STOP, cause=str(error)))
    protection.before_evaluation()
    metric = training.evaluate()
    protection.close()
    return Outcome(
        metric=metric,
        finite=is_sound(training.model) and (training.ema is None or is_sound(training.ema)),
        events=tuple(protection.events),
        seconds=time.perf_counter() - began,
        digest=_digest(training),
        told=tuple(protection.told),
    )


def loop(training: Training, protection: Protecting) -> None:
    """Take all steps of a training, as a plain loop does."""
    for step in range(training.steps):
        protection.begin(step)
        _take(training, protection, step)
        protection.end()
        if training.save is not None:
            training.save(step, protection.save)
        if training.evaluate_every and (step + 1) % training.evaluate_every == 0:
            protection.before_evaluation()
            training.evaluate()


def _take(training: Training, protection: Protecting, step: int) -> None:
    if training.between is not None:
        training.between(step)
    training.optimizer.zero_grad()
    count = training.accumulate
    ran = [protection.backward(training.loss(step * count + part) / count) for part in range(count)]
    if any(ran) and protection.step():
        if training.scheduler is not None:
            training.scheduler.step()
        if training.ema is not None:
            training.ema.update_parameters(training.model)


def is_sound(model: nn.Module) -> bool:
    """Return whether parameters and buffers are finite, and no running variance is below zero."""
    finite = all(bool(each.isfinite().all()) for each in (*model.parameters(), *model.buffers()))
    norms = [each for each in model.modules() if isinstance(each, _NormBase) and each.running_var is not None]
    return finite and all(bool((each.running_var >= 0).all()) for each in norms)


def _digest(training: Training) -> str:
    modules = (training.model, training.ema)
    return digest_of(each for module in modules if module is not None for each in module.state_dict().values())


def digest_of(tensors: Iterable[Tensor]) -> str:
    """Return a digest of every bit of some tensors."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
