"""A training loop as many are: a GradScaler, no guard, and the spectrum of the Fourier block in half precision."""

from pathlib import Path

import torch
from torch import Tensor, nn

from wavessm_x.config import DataConfig, ModelConfig, TrainConfig, as_plain
from wavessm_x.data import Batches, Datasets, load
from wavessm_x.data.reading import Pixels
from wavessm_x.losses import Losses
from wavessm_x.model import Inpainting
from wavessm_x.optim import make_optimizer, make_scheduler
from wavessm_x.training.validation import Validation, validate

MODEL = ModelConfig.preset("tiny", ssm="ssd", half_fft=True)
VALIDATED_EVERY = 50


class Unprotected:
    """Trains, and neither looks at its statistics nor undoes anything.

    Args:
        photographs: A folder.
        steps: That the whole training is to take, for the schedule of its learning rate.
    """

    def __init__(self, photographs: Path, steps: int) -> None:
        data = DataConfig(data_path=photographs, patch_size=48, batch_size=4, workers=0)
        torch.manual_seed(data.seed)
        self.datasets = load(data, masked=False)
        self.model = Inpainting(MODEL)
        self._batches = Batches(self.datasets.train, data)
        self._optimizer = make_optimizer(self.model, lr=2e-3, weight_decay=1e-4)
        self._scheduler = make_scheduler(self._optimizer, steps)
        self._scaler = torch.amp.GradScaler("cpu")
        self._losses = Losses(TrainConfig().loss_weights, steps)
        self.iteration = 0

    def train(self, steps: int) -> None:
        """Take steps on patches, and validate now and then."""
        for _ in range(steps):
            batch = next(self._batches)
            loss = self._step(batch["image"], batch["target"])
            if self.iteration % VALIDATED_EVERY == 0:
                print(f"iteration {self.iteration}: loss {loss:.4f}, {said(self.validate())}")

    def meet(self, picture: Pixels) -> float:
        """Take one step on one picture [h, w, 3] that there is nothing to restore in; return the loss."""
        target = torch.from_numpy(picture.transpose(2, 0, 1).copy())[None] / 255
        return self._step(target, target)

    def validate(self) -> Validation:
        """Return what the network is worth on pieces that it was not trained on."""
        return validated(self.model, self.datasets)

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        state = {
            "model_state_dict": self.model.state_dict(),
            "optimizer_state_dict": self._optimizer.state_dict(),
            "scheduler_state_dict": self._scheduler.state_dict(),
            "iteration": self.iteration,
            "config": {"model": as_plain(MODEL)},
        }
        torch.save(state, path)

    def _step(self, image: Tensor, target: Tensor) -> float:
        self.model.train()
        loss, _ = self._losses(self.model(image), target, self.iteration)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        self._scheduler.step()
        self.iteration += 1
        return float(loss.detach())


def said(found: Validation) -> str:
    """Put a validation into words."""
    return f"PSNR {found.psnr:.2f} dB" if found.succeeded else "0 valid batches"


def validated(model: nn.Module, datasets: Datasets) -> Validation:
    """Return what a network is worth on pieces that it was not trained on."""
    return validate(model, datasets.validation, nn.functional.l1_loss, torch.device("cpu"))
