"""Losses that are finite, with gradients that are not."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.faults.case import Case, Kind
from benchmarks.faults.tasks import accuracy, batch
from benchmarks.faults.training import Act, Training

LEFT_OUT = frozenset({Act.REFUSE, Act.UNDO})


def norm_at_zero(seed: int, faulty: bool) -> Training:
    """Train a classifier with a pull between two views of each digit; twice the augmentation draws no change.

    The pull is the distance of two embeddings, a root of a sum of squares. Where the views are
    equal it is 0, and the slope of the root there is infinite: 0 times Inf.
    """
    encode, head = nn.Sequential(nn.Linear(64, 48), nn.Tanh()), nn.Linear(48, 10)
    model = nn.Sequential(encode, head)

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        shift = 0 if faulty and step in (60, 130) else 1
        one, other = encode(images), encode(images.roll(shift, 1))
        distance = (one - other).square().sum(1).sqrt()
        return functional.cross_entropy(head(one), labels) + 0.05 * distance.mean()

    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    return Training(model=model, optimizer=optimizer, steps=200, loss=loss, evaluate=lambda: accuracy(model))


CASES = (
    Case(
        name="norm_at_zero_backward",
        kind=Kind.TRANSIENT,
        what="The distance of two equal embeddings is 0; the slope of the square root there is infinite, and 0 x Inf "
        "is NaN in the gradient, with a finite loss.",
        reported="pytorch/pytorch#2421, #2775, geoopt/geoopt#243",
        onset=60,
        required=LEFT_OUT,
        make=norm_at_zero,
    ),
)
