"""What is damaged or chosen wrongly where it is saved, though the training is fine."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.faults.case import Case, Kind
from benchmarks.faults.protections import best_of
from benchmarks.faults.tasks import accuracy, batch
from benchmarks.faults.training import Act, Saver, Training

GATED = frozenset({Act.REFUSE, Act.WARN})
"""A state that is not saved, or a metric that is not compared, and the user is told."""


class _Folder:
    """A folder that goes when its training does."""

    def __init__(self) -> None:
        self._held = tempfile.TemporaryDirectory()
        self.last = Path(self._held.name) / "last.pt"


def _training(seed: int, model: nn.Module) -> Training:
    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        return functional.cross_entropy(model(images), labels)

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return Training(model=model, optimizer=optimizer, steps=200, loss=loss, evaluate=lambda: accuracy(model))


def _perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def _accuracy_of(path: Path) -> float:
    """Evaluate what was saved, as whoever downloads it does."""
    model = _perceptron()
    model.load_state_dict(torch.load(path, weights_only=True))
    return accuracy(model)


def ckpt_nan_overwrites(seed: int, faulty: bool) -> Training:
    """Save the weights averaged over a window, over the file before; the last windows hold nothing: 0/0.

    The weights themselves are fine, so that nothing in the training shows it.
    """
    model, folder = _perceptron(), _Folder()
    sums: dict[str, Tensor] = {}
    count = 0

    def save(step: int, saver: Saver) -> None:
        nonlocal count
        if not (faulty and step >= 180):
            count += 1
            for name, value in model.state_dict().items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
        if (step + 1) % 20 == 0:
            averaged: dict[str, Any] = {name: value / count for name, value in sums.items()}
            saver(averaged, folder.last, None)
            count = 0
            for value in sums.values():
                value.zero_()

    training = _training(seed, model)
    training.save = save
    training.evaluate = lambda: _accuracy_of(folder.last)
    return training


def best_metric_nan(seed: int, faulty: bool) -> Training:
    """Keep the checkpoint with the highest precision over all digits; a young net never guesses some of them: 0/0.

    No number is greater than NaN, so that the first checkpoint stays the best for ever.
    """
    model, folder = _perceptron(), _Folder()

    def precision(step: int) -> float:
        images, labels = batch(seed, step, 512)
        with torch.no_grad():
            guessed = functional.one_hot(model(images).argmax(1), 10)
        right = (guessed * functional.one_hot(labels, 10)).sum(0)
        often = guessed.sum(0)
        return (right / (often if faulty else often.clamp(min=1))).mean().item()

    def save(step: int, saver: Saver) -> None:
        if (step + 1) % 20 == 0 or step == 4:
            saver(model.state_dict(), folder.last, precision(step))

    training = _training(seed, model)
    training.save = save
    training.evaluate = lambda: _accuracy_of(best_of(folder.last))
    return training


CASES = (
    Case(
        name="ckpt_nan_overwrites",
        kind=Kind.DURABLE,
        what="Weights are averaged over windows for saving. The last window is empty: 0/0 is saved over the last good "
        "file, while the training itself is fine.",
        reported="kyutai-labs/pocket-tts#262, ultralytics/ultralytics#23327, prajdabre/yanmtt#7",
        onset=180,
        required=frozenset({Act.REFUSE}),
        make=ckpt_nan_overwrites,
    ),
    Case(
        name="best_metric_nan",
        kind=Kind.DURABLE,
        what="The best checkpoint is chosen by its precision, which is 0/0 as long as some digit is never guessed. No "
        "number is greater than NaN: the first checkpoint stays the best one.",
        reported="Lightning-AI/pytorch-lightning#2636, #1008, #6848",
        onset=4,
        required=GATED,
        make=best_metric_nan,
    ),
)
