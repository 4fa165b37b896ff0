"""arc-training as a protection: `arc.Controller` as its page says to use it, by its public interface alone."""

from typing import Any

from torch import Tensor

from benchmarks.faults.protections import CannotRunError, Nothing
from benchmarks.faults.training import Act, Training


class ArcTraining(Nothing):
    """`controller.step(loss)` between backward and the optimizer's step; a step that it asks to skip is left out."""

    name = "arc-training"
    about = (
        "`arc.Controller(model, optimizer, scheduler=, scaler=)` of arc-training 5.2.0 on its defaults, "
        "and `controller.step(loss)` before each step of the optimizer"
    )

    def __init__(self, training: Training) -> None:
        try:
            from arc import Controller, ControllerConfig
        except ImportError as error:
            raise CannotRunError("arc-training is not installed here: `make faults` does it") from error
        super().__init__(training)
        config = ControllerConfig(verbose=False)
        self.controller: Any = Controller(
            training.model, training.optimizer, scheduler=training.scheduler, config=config, scaler=training.scaler
        )
        self.loss: Tensor | None = None
        self.was_lost = False

    def begin(self, step: int) -> None:
        super().begin(step)
        self.loss = None

    def backward(self, loss: Tensor) -> bool:
        mean = loss.detach()  # of one micro-batch, already divided by their number
        self.loss = mean if self.loss is None else self.loss + mean
        return super().backward(loss)

    def unscale(self) -> None:
        """The controller has done it."""

    def step(self) -> bool:
        try:
            action = self.controller.step(self.loss)
        except Exception as error:  # a tool of others may raise anything
            raise CannotRunError(f"it raises {type(error).__name__}: {error}") from error
        said = "; ".join(str(each) for each in (action.failure_type, action.message) if each)
        done = {Act.ROLL_BACK: action.rolled_back, Act.LOWER_RATE: action.lr_reduced, Act.REFUSE: action.should_skip}
        for act in (act for act, is_done in done.items() if is_done):
            self.note(act, said)
        if action.status.value != "healthy" and not any(done.values()):
            self.note(Act.WARN, said)
        if action.unrecoverable and not self.was_lost:
            self.was_lost = True
            self.note(Act.WARN, f"unrecoverable; {said}")
        return not action.should_skip and super().step()

    def close(self) -> None:
        self.controller.close()
