"""Statistics of BatchNorm that the forward pass damages, whatever becomes of the step."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.faults.case import Case, Kind
from benchmarks.faults.tasks import accuracy, batch
from benchmarks.faults.training import Act, Training

UNDONE = frozenset({Act.UNDO, Act.REPAIR})
TOLD = frozenset({Act.WARN, Act.REPAIR, Act.UNDO, Act.STOP})


def perceptron(momentum: float | None = 0.1) -> nn.Sequential:
    """Return a classifier of digits with two BatchNorm layers."""
    return nn.Sequential(
        nn.Linear(64, 64), nn.BatchNorm1d(64, momentum=momentum), nn.ReLU(),
        nn.Linear(64, 64), nn.BatchNorm1d(64, momentum=momentum), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip


Damage = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""What happens to images and labels of a step."""


def classifier(seed: int, model: nn.Module, steps: int = 200, damage: Damage | None = None) -> Training:
    """Train a classifier of digits by AdamW."""

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        if damage is not None:
            images, labels = damage(step, images, labels)
        return functional.cross_entropy(model(images), labels)

    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    return Training(model=model, optimizer=optimizer, steps=steps, loss=loss, evaluate=lambda: accuracy(model))


class SparseNorm(nn.BatchNorm1d):
    """Normalises the active sites of a batch by the kernel itself, as libraries for sparse data do: without the check
    of how many there are."""

    def forward(self, sites: Tensor) -> Tensor:
        return torch.batch_norm(
            sites, self.weight, self.bias, self.running_mean, self.running_var, self.training, self.momentum, self.eps,
            False,
        )  # fmt: skip


def one_value(seed: int, faulty: bool) -> Training:
    """Leave a single site in two batches: the unbiased variance of one value is 0/0, and goes into running_var only."""
    model = nn.Sequential(nn.Linear(64, 64), SparseNorm(64), nn.ReLU(), nn.Linear(64, 10))

    def damage(step: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        left = 1 if faulty and step in (80, 150) else len(images)
        return images[:left], labels[:left]

    return classifier(seed, model, damage=damage)


def outlier_finite(seed: int, faulty: bool) -> Training:
    """Give one image of one batch in another unit, with a slow momentum, twenty steps before the end."""
    model = perceptron(momentum=0.01)

    def damage(step: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if faulty and step == 180:
            images[0] *= 65535
        return images, labels

    return classifier(seed, model, damage=damage)


CASES = (
    Case(
        name="bn_one_value_per_channel",
        kind=Kind.LATENT,
        what="Two batches have one active site. The unbiased variance of one value is 0/0; it goes into running_var "
        "only, so that training is fine and evaluation is NaN.",
        reported="facebookresearch/SparseConvNet#190, #105, pytorch/pytorch#1381",
        onset=80,
        required=UNDONE,
        make=one_value,
    ),
    Case(
        name="bn_outlier_finite",
        kind=Kind.SILENT,
        what="One image of one batch comes in another unit: large, and finite. Its variance stays in slow running "
        "statistics for hundreds of steps, and evaluation divides by it.",
        reported="pytorch/pytorch#4741, #90342",
        onset=180,
        required=TOLD,
        causes=("TM604", "TM607", "TM105"),
        make=outlier_finite,
    ),
)
