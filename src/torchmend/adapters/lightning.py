"""The guard in Lightning's Trainer: `Trainer(callbacks=[GuardCallback()])`."""

from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from torchmend import Guard
from torchmend.adapters.shared import needing, tell

with needing("lightning"):
    from lightning.pytorch import Callback, LightningModule, Trainer


class GuardCallback(Callback):
    """Guards what a Trainer fits: its module, optimizers, schedulers, gradient scaler and weight averaging.

    The guard is made when the fit starts, before the sanity check; its memory goes into checkpoints.

    Args:
        options: Fields of `torchmend.GuardOptions`, by name.

    Attributes:
        guard: Of the last fit; None before the first.
    """

    def __init__(self, **options: Any) -> None:
        self.guard: Guard | None = None
        self._options, self._state = options, dict[str, Any]()
        self._batch: Any = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach the guard: optimizers stand, and nothing was evaluated yet."""
        averages = [getattr(each, "_average_model", None) for each in trainer.callbacks]  # type: ignore[attr-defined]
        self.guard = Guard(
            trainer.model or pl_module,
            trainer.optimizers,
            scaler=getattr(trainer.precision_plugin, "scaler", None),
            scheduler=[each.scheduler for each in trainer.lr_scheduler_configs],
            ema=[each for each in averages if isinstance(each, AveragedModel)],  # WeightAveraging and its children
            **self._options,
        )
        if self._state:
            self.guard.load_state_dict(self._state)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the batch, to be told with its loss."""
        self._batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """Tell the loss, without the scaler's factor."""
        if self.guard is not None:
            scale = 1.0 if self.guard.scaler is None else self.guard.scaler.scale(torch.ones_like(loss))
            tell(self.guard, loss.detach() / scale, batch=self._batch)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check, and repair, statistics: also before the sanity check, when nothing was trained yet."""
        if self.guard is not None:
            with self.guard.evaluating():
                pass

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Detach the guard: there is no teardown after an exception."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Detach the guard, and keep nothing."""
        self._state, self._batch = {}, None
        if self.guard is not None:
            self.guard.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return what the guard remembers, for the checkpoint."""
        return dict(self._state) if self.guard is None else self.guard.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what a checkpoint has for the guard, which is made later."""
        self._state = state_dict
