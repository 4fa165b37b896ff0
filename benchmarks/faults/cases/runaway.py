"""Trainings that go ever faster away: unbounded exponents, rates below zero."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.faults.case import Case, Kind
from benchmarks.faults.tasks import accuracy, batch, digits, explained, generator
from benchmarks.faults.training import Act, Training

CAUGHT = frozenset({Act.UNDO, Act.ROLL_BACK, Act.LOWER_RATE})


class Autoencoder(nn.Module):
    """A variational autoencoder of digits in whole grey values, whose log variances nothing bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.to_latent = nn.Sequential(nn.Linear(64, 64), nn.ReLU()), nn.Linear(64, 2 * 16)
        self.decode = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstruction and the divergence from the prior, in nats."""
        mean, log_variance = self.to_latent(self.encode(images)).chunk(2, 1)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return self.decode(mean + (0.5 * log_variance).exp() * noise), divergence


def exponent(seed: int, faulty: bool) -> Training:
    """Train a variational autoencoder; half of one batch is in a larger unit, its variances the exponential of it."""
    model = Autoencoder()

    def loss(step: int) -> Tensor:
        images, _ = batch(seed, step)
        images = 16 * images
        if faulty and step == 150:
            images[:16] *= 100
        rebuilt, divergence = model(images, torch.randn(len(images), 16, generator=generator(seed, step, 1)))
        return functional.smooth_l1_loss(rebuilt, images, reduction="none").sum(1).mean() + 0.1 * divergence

    def evaluate() -> float:
        images = 16 * digits().test_images
        with torch.no_grad():
            return explained(model(images, torch.zeros(len(images), 16))[0], images)

    return Training(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 5e-4, momentum=0.9),
        steps=300,
        loss=loss,
        evaluate=evaluate,
    )


def negative_rate(seed: int, faulty: bool) -> Training:
    """Let the rate fall on a line that ends at step 200 of 300; below zero each step climbs the loss."""
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 1 - step / 200 if faulty else max(1 - step / 200, 0.0)
    )

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        return functional.cross_entropy(model(images), labels)

    return Training(
        model=model,
        optimizer=optimizer,
        steps=300,
        loss=loss,
        evaluate=lambda: accuracy(model),
        scheduler=scheduler,
    )


CASES = (
    Case(
        name="vae_exp_overflow",
        kind=Kind.RUNAWAY,
        what="The log variances of a variational autoencoder are not bounded. Images in a larger unit drive them up, "
        "their exponentials explode, and one step of SGD throws the weights far away.",
        reported="AntixK/PyTorch-VAE#16, vanderschaarlab/synthcity#331, AppliedDataSciencePartners/WorldModels#9",
        onset=150,
        required=CAUGHT,
        make=exponent,
    ),
    Case(
        name="schedule_below_zero",
        kind=Kind.RUNAWAY,
        what="A linear schedule is shorter than the run. The learning rate falls below zero and goes on falling: each "
        "step climbs the loss.",
        reported="ziqi-jin/finetune-anything#57",
        onset=201,
        required=CAUGHT | {Act.STOP, Act.WARN},
        make=negative_rate,
    ),
)
