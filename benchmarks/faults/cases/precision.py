"""What is finite in float32, and not in float16."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.faults.case import Case, Kind
from benchmarks.faults.tasks import accuracy, batch
from benchmarks.faults.training import Act, Training

EXPLAINED = frozenset({Act.WARN, Act.STOP})


def adam_eps(seed: int, faulty: bool) -> Training:
    """Train weights in float16 by Adam with the usual epsilon, or in the twin with one that float16 has.

    The borders of the digits are always 0, so the weights there have gradients and moments of exactly zero.
    """
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)).half()

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        return functional.cross_entropy(model(images.half()).float(), labels)

    optimizer = torch.optim.Adam(model.parameters(), 3e-3, eps=1e-8 if faulty else 1e-4)
    return Training(
        model=model,
        optimizer=optimizer,
        steps=200,
        loss=loss,
        evaluate=lambda: accuracy(model, lambda x: model(x.half())),
    )


CASES = (
    Case(
        name="adam_fp16_eps",
        kind=Kind.STRUCTURAL,
        what="Adam on weights in float16: its epsilon of 1e-8 is 0 there, and a weight whose gradient is zero is "
        "divided 0 by 0. NaN after the first step, with finite gradients.",
        reported="afiaka87/glide-finetune#5, #6, google-deepmind/optax#1754, chainer/chainer#6299",
        onset=0,
        required=EXPLAINED,
        causes=("eps",),
        make=adam_eps,
    ),
)
