"""Averaged models: what was wrong once stays in them, and statistics that nobody averages."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from benchmarks.faults.case import Case, Kind
from benchmarks.faults.cases.batchnorm import classifier, perceptron
from benchmarks.faults.tasks import accuracy, batch
from benchmarks.faults.training import Act, Training, is_sound


def sticky(seed: int, faulty: bool) -> Training:
    """Train with a loop that finds NaN weights and loads the last good ones, and forgets its moving average.

    The loss weighs the mean over odd digits; in one batch there is none, and 0/0.
    """
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.95))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    good: list[dict] = []

    def recover(_: int) -> None:
        if is_sound(model):
            good[:] = [copy.deepcopy((model.state_dict(), optimizer.state_dict()))]
        else:
            model.load_state_dict(good[0][0])
            optimizer.load_state_dict(good[0][1])

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        if faulty and step == 120:
            images, labels = images[labels % 2 == 0], labels[labels % 2 == 0]
        each = functional.cross_entropy(model(images), labels, reduction="none")
        odd = (labels % 2).float()
        return each.mean() + 0.2 * (each * odd).sum() / odd.sum()

    return Training(
        model=model,
        optimizer=optimizer,
        steps=200,
        loss=loss,
        evaluate=lambda: accuracy(average),
        ema=average,
        between=recover,
    )


class OfWeights(nn.Module):
    """An average of the weights alone, as many are written: buffers stay what they were when it was made."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.count = 0

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in the model's weights with the same share as all before."""
        self.count += 1
        for mean, live in zip(self.module.parameters(), model.parameters(), strict=True):
            mean.lerp_(live, 1 / self.count)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.module(images)
        return out


def stale(seed: int, faulty: bool) -> Training:
    """Average the weights and evaluate; the twin goes over the data once more, for the average's own statistics."""
    model = perceptron()
    training = classifier(seed, model)
    average = OfWeights(model)

    def evaluate() -> float:
        if not faulty:
            average.train()
            update_bn([batch(seed, 1000 + step)[0] for step in range(20)], average)
        return accuracy(average)

    training.ema, training.evaluate = average, evaluate
    return training


CASES = (
    Case(
        name="ema_sticky_nan",
        kind=Kind.LATENT,
        what="Weights become NaN for one step. The loop notices and loads the last good ones; the moving average has "
        "taken the NaN in, never forgets it, and is what is evaluated.",
        reported="ultralytics/ultralytics#24986, #25005, #24615",
        onset=120,
        required=frozenset({Act.REFUSE, Act.UNDO, Act.REPAIR}),
        make=sticky,
    ),
    Case(
        name="swa_statistics_stale",
        kind=Kind.SILENT,
        what="The weights of many steps are averaged, BatchNorm's statistics are not. The averaged model normalises by "
        "statistics from before the training.",
        reported="mosaicml/composer#624, timgaripov/swa#7, DeNA/HandyRL#299",
        onset=0,
        required=frozenset({Act.WARN, Act.REPAIR, Act.STOP}),
        causes=("TM108", "TM607", "average"),
        make=stale,
    ),
)
