"""The guard in the Trainer of Transformers: `trainer.add_callback(GuardCallback(trainer))`."""

import logging
from collections.abc import Callable
from typing import Any

from torchmend import Guard
from torchmend.adapters.shared import needing, tell, tell_before

with needing("transformers"):
    from transformers.trainer_callback import TrainerCallback

logger = logging.getLogger("torchmend.guard")

KEPT = "torchmend.Guard"  # among `stateful_callbacks` in a checkpoint's trainer_state.json


class GuardCallback(TrainerCallback):
    """Guards what a Trainer trains: its model, optimizer, scheduler and gradient scaler.

    The guard is made when training begins; its memory goes into checkpoints.

    Args:
        trainer: Whose model is trained; a callback is not told its accelerator otherwise.
        options: Fields of `torchmend.GuardOptions`, by name.

    Attributes:
        guard: Of the last training; None before the first.
    """

    def __init__(self, trainer: Any, **options: Any) -> None:
        self.guard: Guard | None = None
        self._trainer, self._options = trainer, options
        self._undo, self._batch = list[Callable[[], None]](), dict[str, Any]()
        self._hidden: Any = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Attach the guard: model and optimizer stand as they are trained, and a checkpoint is loaded."""
        self.on_train_end(args, state, control)  # of a training that was interrupted
        trainer, optimizer = self._trainer, self._trainer.optimizer
        self.guard = Guard(
            trainer.model_wrapped,
            getattr(optimizer, "optimizer", optimizer),
            scaler=trainer.accelerator.scaler,
            scheduler=trainer.lr_scheduler,
            **self._options,
        )
        if KEPT in state.stateful_callbacks:
            self.guard.load_state_dict(state.stateful_callbacks[KEPT])
        self._hidden = 0
        self._undo.append(tell_before(trainer.accelerator, "backward", self._tell))
        self._undo.append(tell_before(trainer, "compute_loss", self._keep))

    def _keep(self, _model: Any, inputs: Any, *_: Any, **__: Any) -> None:
        self._batch = dict(inputs)  # the Trainer may take labels out of it

    def _tell(self, loss: Any, **_: Any) -> None:
        if self.guard is not None:
            tell(self.guard, loss, batch=self._batch)
            self._hidden = self._hidden + (~loss.detach().isfinite()).sum()

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say how many losses the Trainer leaves out of its log."""
        count, self._hidden = int(self._hidden), 0
        if count and args.logging_nan_inf_filter:
            state.log_history[-1]["hidden_losses"] = count
            logger.warning("%d losses are NaN or Inf, and left out of the log (logging_nan_inf_filter)", count)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Put the guard's memory where the next checkpoint is made from."""
        if self.guard is not None:
            state.stateful_callbacks[KEPT] = self.guard.state_dict()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Detach the guard."""
        while self._undo:
            self._undo.pop()()
        if self.guard is not None:
            self.guard.detach()
