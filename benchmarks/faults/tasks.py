"""Small real tasks that the cases share: written digits, and batches of them drawn by seed and step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

BATCH = 32


@dataclass(frozen=True, slots=True)
class Digits:
    """The 1797 digits of scikit-learn, 8 x 8 points from 0 to 1; every fourth is for evaluation."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@cache
def digits() -> Digits:
    """Load the digits: images float32 of shape (count, 64), labels int64."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.data, dtype=torch.float32) / 16
    labels = torch.tensor(data.target, dtype=torch.int64)
    test = torch.arange(len(labels)) % 4 == 0
    return Digits(images[~test], labels[~test], images[test], labels[test])


def generator(seed: int, step: int = 0, purpose: int = 0) -> torch.Generator:
    """Return a generator that depends on nothing but its arguments: runs stay paired whatever a protection draws."""
    return torch.Generator().manual_seed(1_000_003 * seed + 101 * step + purpose)


def batch(seed: int, step: int, size: int = BATCH) -> tuple[Tensor, Tensor]:
    """Draw different images of shape (size, 64) and labels; copies, so that a case may damage them."""
    data = digits()
    at = torch.randperm(len(data.labels), generator=generator(seed, step))[:size]
    return data.images[at].clone(), data.labels[at].clone()


def accuracy(model: nn.Module, through: Callable[[Tensor], Tensor] | None = None) -> float:
    """Return the share of test digits that are named rightly; one whose scores are not finite is wrong.

    Args:
        model: Put into eval mode, and back.
        through: Called in place of the model.
    """
    data = digits()
    training = model.training
    model.eval()
    with torch.no_grad():
        scores = (through or model)(data.test_images).float()
    model.train(training)
    right = (scores.argmax(1) == data.test_labels) & scores.isfinite().all(1)
    return float(right.float().mean())


def explained(predicted: Tensor, target: Tensor) -> float:
    """Return the share of the variance that a prediction explains, no less than 0; 0 where it is not finite."""
    rest = (predicted.float() - target).square().mean() / target.var(unbiased=False)
    value = 1 - float(rest)
    return max(value, 0.0) if math.isfinite(value) else 0.0
