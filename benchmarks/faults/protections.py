"""What the faults are met with: nothing, and four habits."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from benchmarks.faults.places import Told
from benchmarks.faults.training import Act, Event, Training, loop

RESET_EVERY = 100
"""Steps between two resets of the classic recipe."""

INITIAL_SCALE = 65536.0
"""Of a GradScaler that the loop did not have: torch's default."""


class CannotRunError(Exception):
    """A protection cannot be used on a case; says why."""


class Nothing:
    """The loop as it is, with its own GradScaler and clipping if it has them."""

    name = "none"
    about = "the loop as it is; loops in float16 have their own `GradScaler`"

    def __init__(self, training: Training) -> None:
        self.training = training
        self.events: list[Event] = []
        self.told: list[Told] = []
        self.now = -1
        self.best: float | None = None

    def note(self, act: Act, cause: str = "", *, by_loop: bool = False) -> None:
        self.events.append(Event(step=self.now, act=act, cause=cause, by_loop=by_loop))

    def train(self) -> None:
        loop(self.training, self)

    def begin(self, step: int) -> None:
        self.now = step

    def backward(self, loss: Tensor) -> bool:
        scaler = self.training.scaler
        (loss if scaler is None else scaler.scale(loss)).backward()
        return True

    def step(self) -> bool:
        if not self.clip():
            return False
        scaler, optimizer = self.training.scaler, self.training.optimizer
        if scaler is None:
            optimizer.step()
            return True
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() < before:
            self.scaler_refused()
        return True

    def clip(self) -> bool:
        """Clip as the loop does; return whether the step is to be taken."""
        if self.training.clip is not None:
            self.unscale()
            nn.utils.clip_grad_norm_(self.training.model.parameters(), self.training.clip)
        return True

    def unscale(self) -> None:
        if self.training.scaler is not None:
            self.training.scaler.unscale_(self.training.optimizer)

    def scaler_refused(self) -> None:
        self.note(Act.REFUSE, "GradScaler", by_loop=True)

    def end(self) -> None:
        """Nothing is done at a step's end."""

    def save(self, state: Any, path: Path, metric: float | None = None) -> None:
        torch.save(state, path)
        if metric is not None and (self.best is None or metric > self.best):
            self.best = metric
            torch.save(state, best_of(path))

    def before_evaluation(self) -> None:
        """Nothing is done before an evaluation."""

    def close(self) -> None:
        """Nothing is left to note."""


class Recipe(Nothing):
    """The classic recipe: BatchNorm statistics that are not finite go back to 0 and 1, now and then."""

    name = "classic recipe"
    about = (
        f"every {RESET_EVERY} steps and before each evaluation, BatchNorm statistics that are not finite go back "
        "to 0 or 1"
    )

    def end(self) -> None:
        if (self.now + 1) % RESET_EVERY == 0:
            self.reset()

    def before_evaluation(self) -> None:
        self.reset()

    def reset(self) -> None:
        for name, module in self.training.model.named_modules():
            if isinstance(module, _NormBase) and module.running_mean is not None and module.running_var is not None:
                for key, value in (("running_mean", 0.0), ("running_var", 1.0)):
                    statistic = getattr(module, key)
                    if not bool(statistic.isfinite().all()):
                        statistic.data.fill_(value)
                        self.note(Act.REPAIR, f"{name}.{key}")


class SkipLoss(Nothing):
    """Leave out steps whose loss is not finite."""

    name = "skip NaN loss"
    about = "`if not isfinite(loss): continue`"

    def backward(self, loss: Tensor) -> bool:
        if not math.isfinite(loss.item()):
            self.note(Act.REFUSE, f"loss {loss.item():g}")
            return False
        return super().backward(loss)


class Scaler(Nothing):
    """A GradScaler, also for loops in float32."""

    name = "GradScaler"
    about = (
        "`torch.amp.GradScaler`, given to loops in float32 as well; loops in float16 have it anyhow, and where weights "
        "themselves are float16 it refuses to work, and the loop goes on without"
    )

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        self.is_own = training.scaler is None and not any(p.dtype is torch.half for p in training.model.parameters())
        if self.is_own:
            training.scaler = torch.amp.GradScaler("cpu", init_scale=INITIAL_SCALE)

    def scaler_refused(self) -> None:
        self.note(Act.REFUSE, "GradScaler", by_loop=not self.is_own)


class ErrorIfNonfinite(Nothing):
    """Clipping that raises, and the step left out when it does."""

    name = "error_if_nonfinite"
    about = "`clip_grad_norm_(..., error_if_nonfinite=True)`, and the step left out on its error"

    def clip(self) -> bool:
        self.unscale()
        limit = math.inf if self.training.clip is None else self.training.clip
        try:
            nn.utils.clip_grad_norm_(self.training.model.parameters(), limit, error_if_nonfinite=True)
        except RuntimeError as error:
            if "non-finite" not in str(error):
                raise
            self.note(Act.REFUSE, "gradient norm")
            if self.training.scaler is not None:
                self.training.scaler.update()
            return False
        return True


def best_of(path: Path) -> Path:
    """Return where the best state is saved, beside the last one."""
    return path.with_name(f"{path.stem}_best{path.suffix}")
