"""A case's training in the `Trainer` of Transformers."""

import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from benchmarks.faults.frameworks import CLIP, Transformers
from benchmarks.faults.training import Training


def fit(owner: Transformers) -> None:
    """Take all steps of a case in `Trainer.train`."""
    training = owner.training
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=training.steps,
            gradient_accumulation_steps=training.accumulate,
            max_grad_norm=training.clip or CLIP,
            logging_nan_inf_filter=True,
            logging_steps=20,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        constant = torch.optim.lr_scheduler.LambdaLR(training.optimizer, lambda _: 1.0)
        trainer = Loop(
            model=AsItIs(training.model),
            args=arguments,
            train_dataset=[{"at": at} for at in range(training.steps * training.accumulate)],
            optimizers=(training.optimizer, training.scheduler or constant),
            callbacks=[Around(owner)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.of = training
        trainer.train()


class AsItIs(nn.Module):
    """A model whose parts stay in the mode that the case gave them: Trainer puts everything into training mode."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def train(self, _: bool = True) -> "AsItIs":
        return self

    def forward(self, at: Tensor) -> Tensor:
        raise NotImplementedError("the loss calls the model")


class Loop(Trainer):
    """Makes the case's loss of a step's number."""

    of: Training

    def get_train_dataloader(self) -> Any:
        return DataLoader(self.train_dataset, batch_size=1)

    def compute_loss(self, _: Any, inputs: Any, *__: Any, **___: Any) -> Tensor:
        return self.of.loss(int(inputs["at"]))


class Around(TrainerCallback):
    """What the user's code does around each step."""

    def __init__(self, owner: Transformers) -> None:
        self.owner, self.training = owner, owner.training

    def on_step_begin(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        self.owner.begin(state.global_step)
        if self.training.between is not None:
            self.training.between(self.owner.now)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        training = self.training
        if training.ema is not None:
            training.ema.update_parameters(training.model)
        if training.save is not None:
            training.save(self.owner.now, self.owner.save)
