"""The guard in the Trainer of Transformers: `trainer.add_callback(GuardCallback(trainer))`."""

import logging
from collections.abc import Callable
from typing import Any, cast

import torch

from torchmend import Guard
from torchmend.adapters.telling import tell_backward, told

try:
    from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
    from transformers.training_args import TrainingArguments
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise ImportError(
        "torchmend.adapters.transformers needs Transformers, which is not installed: "
        "pip install 'torchmend[transformers]'"
    ) from error

logger = logging.getLogger("torchmend.guard")

KEPT = "torchmend.Guard"
"""Where the guard's memory lies among `stateful_callbacks` in a checkpoint's trainer_state.json."""


class GuardCallback(TrainerCallback):
    """Guards what a Trainer trains: `trainer.add_callback(GuardCallback(trainer))`.

    The guard is made when training begins, before an evaluation at its start, with the Trainer's optimizer, scheduler
    and gradient scaler; its memory goes into checkpoints.

    Args:
        trainer: Whose model is trained; a callback is not told its accelerator otherwise.
        options: Fields of `torchmend.GuardOptions`, by name.

    Attributes:
        guard: Of the last training; None before the first.
    """

    def __init__(self, trainer: Any, **options: Any) -> None:
        self.guard: Guard | None = None
        self._trainer = trainer
        self._options = options
        self._undo: Callable[[], None] = lambda: None
        self._hidden: Any = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Attach the guard: model and optimizer stand as they are trained, and a checkpoint is loaded."""
        self._detach()  # of a training that was interrupted
        trainer, optimizer = self._trainer, self._trainer.optimizer
        self.guard = Guard(
            trainer.model_wrapped,
            getattr(optimizer, "optimizer", optimizer),
            scaler=trainer.accelerator.scaler,
            scheduler=trainer.lr_scheduler,
            **self._options,
        )
        if KEPT in _kept(state):
            self.guard.load_state_dict(_kept(state)[KEPT])
        self._hidden = 0
        self._undo = tell_backward(trainer.accelerator, self._tell)

    def _tell(self, loss: torch.Tensor) -> None:
        if self.guard is not None:
            told(self.guard, loss)
            self._hidden = self._hidden + (~loss.detach().isfinite()).sum()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Say how many losses the Trainer leaves out of its log."""
        count, self._hidden = int(self._hidden), 0
        if count and args.logging_nan_inf_filter:
            state.log_history[-1]["hidden_losses"] = count
            logger.warning(
                "%d losses since the last log are NaN or Inf, and left out of it (logging_nan_inf_filter)", count
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Put the guard's memory where the next checkpoint is made from."""
        if self.guard is not None:
            _kept(state)[KEPT] = self.guard.state_dict()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Detach the guard."""
        self._detach()

    def _detach(self) -> None:
        self._undo()
        if self.guard is not None:
            self.guard.detach()


def _kept(state: TrainerState) -> dict[str, Any]:
    """Return what callbacks keep in a checkpoint; by now a dictionary, whatever the type says."""
    return cast(dict[str, Any], state.stateful_callbacks)
