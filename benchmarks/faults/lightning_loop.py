"""A case's training in Lightning's own loop."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.faults.anomaly import named
from benchmarks.faults.frameworks import CLIP, EPOCH, Lightning
from torchmend import TrainingStoppedError


def fit(owner: Lightning) -> None:
    """Take all steps of a case in `Trainer.fit`.

    Raises:
        TrainingStoppedError: Lightning ended the run early.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    training = owner.training
    trainer = Trainer(
        max_steps=training.steps,
        accelerator="cpu",
        accumulate_grad_batches=training.accumulate,
        gradient_clip_val=training.clip or CLIP,
        detect_anomaly=True,
        callbacks=[EarlyStopping("loss", patience=sys.maxsize, check_finite=True, check_on_train_epoch_end=True)],
        plugins=[] if training.scaler is None else [ScaleOnly("16-mixed", "cpu", training.scaler)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(Loop(owner), DataLoader(range(EPOCH * training.accumulate), batch_size=None))
    except RuntimeError as error:
        told = named(error, owner.now)
        if told is None:
            raise
        raise TrainingStoppedError(told.words) from error
    if trainer.should_stop:
        raise TrainingStoppedError("the mean loss is not finite")


class ScaleOnly(MixedPrecision):
    """A GradScaler without an autocast around the step: the case's own code has its autocast."""

    @contextlib.contextmanager
    def forward_context(self) -> Iterator[None]:
        yield


class Loop(LightningModule):
    """A case's training as Lightning asks for it."""

    def __init__(self, owner: Lightning) -> None:
        super().__init__()
        self.owner, self.training_of = owner, owner.training
        self.net = owner.training.model
        self.scale = 0.0

    def configure_optimizers(self) -> Any:
        scheduler = self.training_of.scheduler
        if scheduler is None:
            return self.training_of.optimizer
        return [self.training_of.optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def training_step(self, _: Any, at: int) -> Tensor:
        loss = self.training_of.loss(self.current_epoch * EPOCH * self.training_of.accumulate + at)
        self.log("loss", loss.detach(), on_step=False, on_epoch=True, batch_size=1)
        return loss

    def on_train_batch_start(self, _: Any, at: int) -> None:
        training = self.training_of
        if at % training.accumulate == 0:
            self.owner.begin(self.global_step)
            self.scale = training.scaler.get_scale() if training.scaler is not None else 0.0
            if training.between is not None:
                training.between(self.global_step)

    def on_train_batch_end(self, _: Any, __: Any, at: int) -> None:
        training = self.training_of
        if (at + 1) % training.accumulate:
            return
        if training.scaler is not None and training.scaler.get_scale() < self.scale:
            self.owner.scaler_refused()
        if training.ema is not None:
            training.ema.update_parameters(training.model)
        if training.save is not None:
            training.save(self.owner.now, self.owner.save)
