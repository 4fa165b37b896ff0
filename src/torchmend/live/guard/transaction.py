"""One optimizer's step as a transaction: begun by a forward pass, judged at the end of backward, closed by the step."""

import functools
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchmend.live.guard.buffers import BufferStore
from torchmend.live.guard.clipping import Clipper
from torchmend.live.guard.closures import ask_first, closure_of
from torchmend.live.guard.decisions import Action, Decision, Observation
from torchmend.live.guard.ending import TO_THE_STEP, EndOfBackward, Mark, is_called_from
from torchmend.live.guard.micro import MicroBatches
from torchmend.live.guard.ranks import OwnSide, average
from torchmend.live.guard.sensing.catalogue import Sensor
from torchmend.live.guard.sensing.reading import Figures, confirmed, measure, observation
from torchmend.live.guard.sensing.sampling import SampledForward, SampledUpdates
from torchmend.live.guard.skipping import (
    Standstill,
    drop_gradients,
    empty_gradients,
    is_skipped_by_empty_gradients,
    silence_gradients,
)
from torchmend.live.ownership import (
    Named,
    announcing_parameters,
    is_compiled,
    is_traced,
    may_be_hooked,
    names_of,
    parameters_of,
)
from torchmend.live.wrapping import EagerHook, Hook, Wrapping

Judge = Callable[["Transaction", Observation], Decision]
"""Asked once a backward pass; may raise what stops the run."""

Closed = Callable[["Transaction", Decision | None], None]
"""Told the end of each step, with the decision that kept it from happening, if one did."""


ABANDONED = Decision(action=Action.REFUSE, step=-1)
"""Of a step that will not come to its end, because of an error or because the scaler left it out."""


class Transaction:
    """What belongs to one optimizer, and where its present step stands.

    Args:
        optimizer: Whose step it is.
        models: To name parameters by.
        modules: Whose buffers it owns.
        judge: Decides at the end of each backward pass.
        closed: Told the end of each step.
        acts: Whether decisions are carried out, or only made.
        safe: Whether the optimizer is declared to do nothing without gradients.
        sensors: Which look at each step.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        models: Sequence[nn.Module],
        modules: Sequence[Named],
        judge: Judge,
        closed: Closed,
        *,
        acts: bool,
        safe: bool,
        sensors: frozenset[Sensor],
    ) -> None:
        self.optimizer = optimizer
        self.buffers = BufferStore(modules)
        self.loss: Tensor | None = None
        self.scale: Callable[[], Tensor | None] = lambda: None
        self.sampled_forward: SampledForward | None = None
        self.sampled_updates: SampledUpdates | None = None
        self.seen = Observation()
        self.clipper: Clipper | None = None
        self.micro: MicroBatches | None = None
        self.refused: Decision | None = None
        self.steps = 0
        self.is_open = False
        self.stepped = False
        self._models = models
        self._judge = judge
        self._closed = closed
        self._acts = acts
        self._sensors = sensors
        self._own: OwnSide | None = None
        self._safe = safe or is_skipped_by_empty_gradients(optimizer)
        self._named: dict[Tensor, str] = {}
        self._refused_mark: Mark | None = None
        self._queued: Callable[[], EndOfBackward | None] = lambda: None
        self._before: Mark | None = None
        self._lock = threading.Lock()
        self._judged = False
        self._goes_on = False
        self._in_step = False
        self._step_frame: FrameType | None = None
        self._nested = 0
        self._standstill: Standstill | None = None

    def named_parameters(self) -> dict[str, Tensor]:
        """The optimizer's parameters by name."""
        return {name: parameter for parameter, name in self._names.items()}

    @property
    def _names(self) -> dict[Tensor, str]:
        """The optimizer's parameters with their names; looked up again when there are more of them."""
        count = sum(len(group["params"]) for group in self.optimizer.param_groups)
        if len(self._named) != count:
            self._named = names_of(self._models, self.optimizer)
        return self._named

    # From the forward pass to the end of backward

    def begin(self) -> None:
        """Keep the buffers, unless the step has begun already."""
        if not self.is_open:
            self.is_open = True
            self.buffers.save()
            if self.micro is not None:
                self.micro.begin()

    def attach(self, modules: Sequence[Named], wrapping: Wrapping) -> None:
        """Hook the modules that write buffers, the parameters' gradients, and the optimizer's step."""
        hooked = may_be_hooked(self._models)
        for _, module in modules:
            if module not in hooked:
                continue
            if module._buffers or is_compiled(module) or type(module).get_extra_state is not nn.Module.get_extra_state:
                wrapping.hook(module.register_forward_pre_hook(EagerHook(self._before_forward)))
        for each in announcing_parameters(self._models, self.optimizer):
            wrapping.hook(each.register_hook(Hook(functools.partial(self._on_gradient, each))))  # type: ignore[no-untyped-call]
        self._own = OwnSide(self._models, self.optimizer, wrapping)
        if is_skipped_by_empty_gradients(self.optimizer):
            wrapping.hook(self.optimizer.register_step_pre_hook(Hook(ask_first)))
        wrapping.hook(self.optimizer.register_step_pre_hook(Hook(self._before_step)))
        wrapping.hook(self.optimizer.register_step_post_hook(Hook(self._after_step)))

    def _before_forward(self, module: nn.Module, _: Any) -> None:
        if module.training and not self.is_open and not is_traced():
            self.begin()

    def _on_gradient(self, parameter: Tensor, _: Tensor) -> None:
        """Have the end of this backward pass announced, once; the engine may call from a thread for each device."""
        if self._queued() is not None:
            return
        with self._lock:
            if self._queued() is None:
                self._goes_on = not self._is_new_window()  # now: gradients may be other tensors when it has ended
                self._before = Mark(parameter)
                end = EndOfBackward(self._after_backward)
                self._queued = weakref.ref(end)
                torch.autograd.Variable._execution_engine.queue_callback(end)

    def _after_backward(self) -> None:
        self._queued = lambda: None
        before, self._before = self._before, None
        if before is None or not before.stands:  # else `torch.autograd.grad`, which leaves nothing to judge yet
            self.end_of_backward()

    def end_of_backward(self) -> None:
        """Judge what backward left, and undo it if it must not count."""
        if self.micro is None and self.refused is not None and (self._in_step or self._goes_on):
            self._undo(self.refused)
            return
        self.refused = None
        self.begin()
        decision = self._judge(self, self._look())
        parameters = parameters_of(self.optimizer)
        if decision.happens or not self._acts:
            if self.micro is not None:
                self.micro.keep(parameters)
        elif self.micro is not None and not decision.by_scaler and decision.action is Action.REFUSE:
            self.micro.drop(parameters)
            if self.micro.good:
                average(parameters, self._models)
            self.refused = decision if self.micro.good == 0 else None
        else:
            self.refused = decision
            self._undo(decision)
        if self.refused is None and self._in_step and self.clipper is not None:
            self.clipper.clip(parameters)

    def _look(self) -> Observation:
        """Look at what backward left, with one read from the device if all is well."""
        gradients, figures = self._measured()
        seen = confirmed(observation(figures, figures.values.tolist()), gradients, self.buffers.first_bad)
        self.seen = seen if self._own is None else self._own.noted(seen)
        if self.clipper is not None:
            self.clipper.note(self.seen.gradient_norm, parameters_of(self.optimizer))
        return self.seen

    def _measured(self) -> tuple[dict[str, Tensor], Figures]:
        """Return the gradients by name, and the figures of this step, still on the device."""
        gradients = {name: each.grad for each, name in self._names.items() if each.grad is not None}
        self._judged = bool(gradients)
        loss, self.loss = self.loss, None
        extras = self.sampled_forward.close() if self.sampled_forward is not None else []
        if self.sampled_updates is not None:
            extras += self.sampled_updates.collected()
        figures = measure(
            [*gradients.values()] if Sensor.GRADIENTS in self._sensors else [],
            self.buffers.watched() if Sensor.BUFFERS in self._sensors else [],
            loss if Sensor.LOSS in self._sensors else None,
            self.scale(),
            extras,
            self.steps,
        )
        return gradients, figures

    def _undo(self, decision: Decision) -> None:
        self.buffers.restore()
        if decision.by_scaler:  # the scaler has to see the overflow itself, in order to back off
            self._mark()
            return
        parameters = parameters_of(self.optimizer)
        if self._in_step and not self._safe:  # the optimizer goes on after its closure, and may not ask for None
            empty_gradients(parameters)
            return
        silence_gradients(parameters)
        self._mark()

    def _mark(self) -> None:
        """Mark a gradient: whoever clears it begins a new step; who does not goes on accumulating into this one."""
        first = next((each for each in parameters_of(self.optimizer) if each.grad is not None), None)
        self._refused_mark = None if first is None else Mark(first)

    def _is_new_window(self) -> bool:
        """Return whether gradients were cleared since the refusal, so that this backward is another step's."""
        return self._refused_mark is not None and not self._refused_mark.stands

    # The optimizer's step

    def _before_step(self, _: Optimizer, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        caller = sys._getframe(TO_THE_STEP)
        if self._step_frame is not None and is_called_from(caller, self._step_frame):
            self._nested += 1  # a user's optimizer that calls its base class's step: one step, with hooks called twice
            return
        self._step_frame, self._nested = caller, 0
        closure = closure_of(arguments, keywords)
        if closure is None and not self._judged:  # gradients that came from no backward pass that a hook has seen
            self.end_of_backward()
        self.stepped = self._in_step = True
        if self._acts and (closure is not None or (self.refused is not None and not self._safe)):
            self._standstill = Standstill(self.optimizer)
        if self.refused is not None:
            (drop_gradients if self._safe else empty_gradients)(parameters_of(self.optimizer))
        elif closure is None:
            if self.micro is not None:
                self.micro.renormalise(parameters_of(self.optimizer))
            if self.clipper is not None:
                self.clipper.clip(parameters_of(self.optimizer), getattr(self.optimizer, "grad_scale", None))
            if self.sampled_updates is not None:
                self.sampled_updates.before(self.steps)

    def _after_step(self, *_: Any) -> None:
        if self._nested:
            self._nested -= 1
            return
        if self.refused is not None and self._standstill is not None:
            self._standstill.put_back()
            self.buffers.restore()
        if self.sampled_updates is not None:
            self.sampled_updates.after()
        self.close(self.refused)

    def close(self, refused: Decision | None) -> None:
        """End the step: the next forward pass begins another.

        Args:
            refused: What kept it from happening, if anything did.
        """
        if self.refused is not None:
            drop_gradients(parameters_of(self.optimizer))
        self.steps += 1
        self.refused = None
        self._judged = False
        self._refused_mark = None
        self.buffers.settle()
        self._standstill, self._in_step, self._step_frame = None, False, None
        self.is_open = False
        self._closed(self, refused)

    def abandon(self) -> None:
        """Undo what the forward pass wrote in a step that will not come to its end."""
        if self._standstill is not None:  # an error leaves a closure: the optimizer may have moved already
            self._standstill.put_back()
        if self.is_open:
            self.buffers.restore()
            self.close(ABANDONED)

    def let_go(self) -> None:
        """Leave nothing to a step that was refused: no gradient, not the marker either."""
        if self.refused is not None and not self.refused.by_scaler and self._acts:
            drop_gradients(parameters_of(self.optimizer))
