"""A step whose verdict stays on the device: the host never waits for it, and hears of it steps later."""

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from torchmend.facts.errors import UserError
from torchmend.live.guard.ranks import trained_together
from torchmend.live.guard.sensing.reading import Figures, observation
from torchmend.live.guard.transaction import Transaction
from torchmend.live.ownership import parameters_of

LAG = 8
"""Steps after which figures are read from a device that cannot be asked whether they have arrived."""


def refuse_unless_lazy(optimizer: Optimizer) -> None:
    """Raise UserError for an optimizer that does not ask the device whether to step."""
    kind = type(optimizer)
    fused = all(group.get("fused") for group in optimizer.param_groups)
    if kind not in (SGD, Adam, AdamW) or not fused:
        raise UserError(
            f"lazy=True needs torch's Adam, AdamW or SGD with fused=True, and this is a {kind.__name__}. "
            "Make it fused, or leave lazy out."
        )
    devices = {each.device for each in parameters_of(optimizer)}
    if len(devices) > 1:
        raise UserError(f"lazy=True needs all parameters on one device; they are on {len(devices)}. Leave lazy out.")


class LazyTransaction(Transaction):
    """One fused optimizer's step, which the device itself leaves out when its flag says so."""

    _flag: Tensor | None = None
    _borrowed: Tensor | None = None

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        refuse_unless_lazy(self.optimizer)
        if trained_together(self._models):  # each rank's flag is its own, and figures arrive when they like
            raise UserError("lazy=True does not support DistributedDataParallel yet. Leave lazy out.")
        self._underway: deque[_Underway] = deque()

    def end_of_backward(self) -> None:
        """Flag the step on the device, put buffers back by the flag, and judge what has arrived of earlier steps."""
        self.begin()
        _, figures = self._measured()
        if self._acts:
            bad = figures.is_bad.to(parameters_of(self.optimizer)[0].device)
            self._flag = bad if self._flag is None else self._flag | bad
            self.buffers.restore_where(self._flag)
        while self._underway and self._underway[0].has_arrived(self.steps):
            self._deliver()
        self._underway.append(_sent(figures))

    def _deliver(self) -> None:
        figures, values = self._underway.popleft().opened()
        self.seen = observation(figures, values)
        self._judge(self, self.seen)

    def _before_step(self, *_: Any) -> None:
        if not self._judged:
            self.end_of_backward()
        self.stepped = self._in_step = True
        optimizer: Any = self.optimizer
        if self._flag is not None:
            flag = self._flag.float()
            self._borrowed = getattr(optimizer, "found_inf", None)  # of the scaler
            optimizer.found_inf = flag if self._borrowed is None else torch.maximum(self._borrowed.to(flag), flag)
            if not hasattr(optimizer, "grad_scale"):
                optimizer.grad_scale = None
        if self.clipper is not None:
            self.clipper.clip(parameters_of(optimizer), optimizer.grad_scale)
        if self.sampled_updates is not None:
            self.sampled_updates.before(self.steps)
        self._is_first = not optimizer.state

    def _after_step(self, *_: Any) -> None:
        optimizer: Any = self.optimizer
        if self._flag is not None:
            if self._is_first:
                self._empty_momenta(self._flag)
            if self._borrowed is not None:
                optimizer.found_inf = self._borrowed
            else:
                del optimizer.found_inf, optimizer.grad_scale
        if self.sampled_updates is not None:
            self.sampled_updates.after()
        self._flag = self._borrowed = None
        self.close(None)

    @torch.no_grad()
    def _empty_momenta(self, flag: Tensor) -> None:
        """Zero what SGD's kernel left unwritten when it left its first step out."""
        for state in self.optimizer.state.values():
            momentum = state.get("momentum_buffer")
            if momentum is not None:
                momentum.copy_(torch.where(flag, 0.0, momentum))

    def let_go(self) -> None:
        """Judge what is still under way."""
        while self._underway:
            self._deliver()


@dataclass(frozen=True, slots=True)
class _Underway:
    """Figures on their way to the host."""

    figures: Figures
    values: Tensor
    event: Any

    def has_arrived(self, step: int) -> bool:
        """Return whether reading them makes the host wait for nothing."""
        if self.event is not None:
            return bool(self.event.query())
        return step > self.figures.step + (0 if self.values.device.type == "cpu" else LAG)

    def opened(self) -> tuple[Figures, list[float]]:
        """Read them."""
        if self.event is not None:
            self.event.synchronize()
        return self.figures, self.values.tolist()


def _sent(figures: Figures) -> _Underway:
    """Send figures to the host without waiting for them."""
    if figures.values.device.type != "cuda":
        return _Underway(figures, figures.values, None)
    host = torch.empty(figures.values.shape, dtype=figures.values.dtype, pin_memory=True)
    host.copy_(figures.values, non_blocking=True)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return _Underway(figures, host, event)
