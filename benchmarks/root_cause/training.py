"""A small training that fills holes in photographs, with one batch whose spectrum overflows in half precision."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

import torchmend
from benchmarks.faults.ours import Torchmend
from benchmarks.faults.protections import Nothing, Recipe, SkipLoss
from benchmarks.faults.training import Training, run
from benchmarks.root_cause.pictures import HELD_OUT, LARGE, TRAINED_ON, crops, square, with_holes
from wavessm_x.model.fourier import WaveFFC

STEPS, FAULT, VALIDATED_EVERY = 240, 150, 80
"""The batch of step 150 overflows, ten steps before the second of three validations."""

BATCH = 4
WIDTH = 12
RATE = 3e-3
CLIP = 0.5
SCORED = 24
"""Crops of held-out photographs."""

STATISTICS = ("running_mean", "running_var")


class Network(nn.Module):
    """A convolution, the Fourier block of WaveSSM-X, and a head with a BatchNorm of its own.

    Args:
        half: Cast spectra to half precision before they are normalised.
    """

    def __init__(self, *, half: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, WIDTH, 3, padding=1)
        self.block = WaveFFC(WIDTH, WIDTH // 2, "haar", half=half)
        self.head = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(),
            nn.Conv2d(WIDTH, 3, 3, padding=1),
        )

    def forward(self, given: Tensor) -> Tensor:
        """Fill pictures [N, 4, H, W] where the fourth channel is 1."""
        features = self.stem(given)
        filled: Tensor = given[:, :3] + given[:, 3:] * self.head(features + self.block(features))
        return filled


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A protection, alone or with a GradScaler.

    Args:
        name: As in the page.
        protection: What stands between loop and optimizer.
        clip: The limit of gradient norms; None for none.
        stable: Whether BatchNorm is configured by `torchmend.configure_bn_for_stability`.
        half: Whether spectra are cast to half precision.
        faulty: Whether one batch overflows in half precision.
    """

    name: str
    protection: type[Nothing] = Nothing
    clip: float | None = None
    stable: bool = False
    half: bool = True
    faulty: bool = True

    def made(self) -> Network:
        """Return a new network."""
        network = Network(half=self.half)
        if self.stable:
            torchmend.configure_bn_for_stability(network)
        return network


WAYS = (
    Way(name="no fault", faulty=False),
    Way(name="no fault, momentum 0.01 and eps 1e-3", stable=True, faulty=False),
    Way(name="nothing"),
    Way(name=f"gradients clipped at {CLIP}", clip=CLIP),
    Way(name="a step with a NaN loss is skipped", protection=SkipLoss),
    Way(name="momentum 0.01 and eps 1e-3", stable=True),
    Way(name="0/1 before validations and every 100 steps", protection=Recipe),
    Way(name="the last, clipping, and momentum 0.01: the classic recipe", protection=Recipe, clip=CLIP, stable=True),
    Way(name="torchmend's guard", protection=Torchmend),
    Way(name="the spectrum in float32", half=False),
)
NOTHING = WAYS[2]


@dataclass(slots=True, kw_only=True)
class Course:
    """How a training went.

    Args:
        hurt: Of statistics and weights, the tensors that were not sound after the faulty step.
        scores: PSNR at each validation, in decibels; NaN where no picture gave a finite output.
        losses: Of each step.
        watched: PSNR after each step at which it was asked for.
        before: The state before the faulty step.
        after: The state at the end.
    """

    hurt: tuple[int, int] = (0, 0)
    scores: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    watched: dict[int, float] = field(default_factory=dict)
    before: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)


def train(way: Way, seed: int, *, scaled: bool, watched: range = range(0)) -> Course:
    """Train in one way.

    Args:
        way: What protects it.
        seed: Of weights and batches; two ways with the same seed get the same.
        scaled: Whether there is a GradScaler too.
        watched: Steps before which the PSNR is measured besides, of a copy of the model.
    """
    torch.manual_seed(seed)
    model, course = way.made(), Course()
    optimizer = torch.optim.AdamW(model.parameters(), RATE)

    def loss(step: int) -> Tensor:
        target, given = _batch(seed, step, large=way.faulty and step == FAULT)
        found: Tensor = (model(given) - target).abs().mean()
        course.losses.append(float(found.detach()))
        return found

    def between(step: int) -> None:
        if step in watched:
            course.watched[step] = psnr(network_of(model.state_dict(), way))
        if step == FAULT:
            course.before = _copied(model)
        if step == FAULT + 1:
            course.hurt = hurt(model)

    def evaluate() -> float:
        course.scores.append(psnr(model))
        return course.scores[-1]

    training = Training(
        model=model,
        optimizer=optimizer,
        steps=STEPS,
        loss=loss,
        evaluate=evaluate,
        scaler=torch.amp.GradScaler("cpu") if scaled else None,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, RATE / 20),
        clip=way.clip,
        evaluate_every=VALIDATED_EVERY,
        between=between,
    )
    run(training, way.protection(training))
    course.after = _copied(model)
    return course


def network_of(state: dict[str, Tensor], way: Way) -> Network:
    """Return a network of its own with a state: without hooks, in training mode."""
    network = way.made()
    network.load_state_dict(state)
    return network


def batches(seed: int, count: int) -> list[Tensor]:
    """Return inputs of steps before the fault, to measure statistics on."""
    return [_batch(seed, step)[1] for step in range(count)]


def hurt(model: nn.Module) -> tuple[int, int]:
    """Return how many of the 8 running statistics, and of the 16 parameters, hold what is not finite."""
    bad = [name for name, each in model.state_dict().items() if not bool(each.isfinite().all())]
    statistics = sum(name.endswith(STATISTICS) for name in bad)
    return statistics, len(bad) - statistics


@torch.no_grad()
def psnr(model: nn.Module) -> float:
    """Return the mean PSNR in evaluation mode, in decibels, over held-out crops with a finite output; NaN for none."""
    random = torch.Generator().manual_seed(99)
    target = crops(HELD_OUT, SCORED, random)
    given = with_holes(target, random)
    was_training = model.training
    model.eval()
    errors = (model(given).clamp(0, 1) - target).square().mean(dim=(1, 2, 3))
    model.train(was_training)
    errors = errors[errors.isfinite()]
    return float(-10 * errors.log10().mean()) if len(errors) else math.nan


def _batch(seed: int, step: int, *, large: bool = False) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(10_000 * (seed + 1) + step)
    target = square(TRAINED_ON[0], LARGE)[None] if large else crops(TRAINED_ON, BATCH, random)
    return target, with_holes(target, random)


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: each.clone() for name, each in model.state_dict().items()}
