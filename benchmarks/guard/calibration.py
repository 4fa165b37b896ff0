"""How far running statistics lie from the batch's in healthy and in damaged trainings: where the thresholds come from.

    python benchmarks/guard/calibration.py [--healthy | --damaged]

Prints a line for each training: the largest gap of mean and of variance that a layer kept for three samples in a row,
the largest of a single sample, and the steps at which something was told. Takes ten minutes on one core.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from run import Block
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from torchmend.live.guard.sensing.calibration import Calibration

Hurt = Callable[[nn.Module, Tensor, int], None]


@dataclass
class Run:
    """What a training showed."""

    mean: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    variance: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    told: list[int] = field(default_factory=list)
    loss: float = math.nan


class Watching(Calibration):
    """Keeps what is judged."""

    def __init__(self, model: nn.Module, run: Run, after: int) -> None:
        super().__init__([model])
        self.run, self.after = run, after

    def keep(self, figures: list[float], step: int) -> None:
        layers = self._samples._contexts[int(figures[0])]
        for at, (name, channels) in enumerate(layers.items(), 1):
            if step >= self.after:
                self.run.mean[name].append(figures[at] / math.sqrt(channels))
                self.run.variance[name].append(figures[at + len(layers)] / math.sqrt(channels))


def pictures(kind: str, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw white noise, or smooth pictures whose brightness and contrast vary; both with a shift for each class."""
    labels = torch.randint(0, 10, (count,), generator=generator)
    if kind == "noise":
        images = torch.randn(count, 3, 16, 16, generator=generator)
    else:
        coarse = torch.randn(count, 3, 4, 4, generator=generator)
        images = functional.interpolate(coarse, size=(16, 16), mode="bilinear")
        images = images + 0.2 * torch.randn(count, 3, 16, 16, generator=generator)
        images = images * torch.exp(0.7 * torch.randn(count, 1, 1, 1, generator=generator))
        images = images + torch.randn(count, 1, 1, 1, generator=generator)
        images[:, :, :3, :3] += (labels.float() / 3)[:, None, None, None]
    return images + (labels.float()[:, None, None, None] - 4.5) / 9, labels


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(768, 64), nn.BatchNorm1d(64), nn.ReLU(),
        nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def resnet() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    blocks = Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def norms(model: nn.Module) -> list[_BatchNorm]:
    return [each for each in model.modules() if isinstance(each, _BatchNorm)]


def train(
    make: Callable[[], nn.Module], kind: str, batch: int, optimizer: str, rate: float, seed: int, *,
    momentum: float | None = 0.1, steps: int = 300, every: int = 1, after: int = 0, hurt: Hurt | None = None,
) -> Run:  # fmt: skip
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, run = make(), Run()
    for each in norms(model):
        each.momentum = momentum
    made = {"SGD": lambda: torch.optim.SGD(model.parameters(), rate, momentum=0.9),
            "AdamW": lambda: torch.optim.AdamW(model.parameters(), rate, weight_decay=0.0)}[optimizer]()  # fmt: skip
    sensor = Watching(model, run, after)
    for step in range(steps):
        images, labels = pictures(kind, batch, generator)
        if hurt is not None:
            hurt(model, images, step)
        if step % every == 0:
            sensor.open(step)
        loss = functional.cross_entropy(model(images), labels)
        if step % every == 0 and (figures := sensor.close()) is not None:
            values = figures.tolist()
            sensor.keep(values, step)
            run.told += [step for _ in sensor.judge(values)]
        made.zero_grad()
        loss.backward()
        made.step()
        run.loss = loss.item()
        if not math.isfinite(run.loss):
            break
    return run


def lasting(gaps: dict[str, list[float]]) -> float:
    """Return the largest gap that a layer kept for three samples in a row."""
    return max(
        (min(three) for each in gaps.values() for three in zip(each, each[1:], each[2:], strict=False)), default=0.0
    )


def show(what: str, runs: list[Run]) -> None:
    figures = []
    for name, gaps in (("mean", [run.mean for run in runs]), ("variance", [run.variance for run in runs])):
        single = max(max(map(max, each.values()), default=0.0) for each in gaps)
        figures.append(f"{name} {max(map(lasting, gaps)):.2f} (single {single:.2f})")
    losses = ", ".join(f"{run.loss:.2f}" for run in runs)
    print(f"{what}: {', '.join(figures)}; losses {losses}; told {[run.told for run in runs]}", flush=True)


def outlier(_: nn.Module, images: Tensor, step: int) -> None:
    if step == 600:
        images[0, 0, 2, 2] = 1e4


def other_domain(model: nn.Module, _: Tensor, step: int) -> None:
    if step == 0:
        first = norms(model)[0]
        first.running_mean.copy_(torch.randn(first.num_features) * 60)
        first.running_var.fill_(1800.0)


def healthy() -> None:
    for make, seeds in ((cnn, 3), (mlp, 3), (resnet, 2)):
        for kind in ("noise", "smooth"):
            for batch in (16, 64):
                for optimizer, rate in (
                    ("SGD", 1e-3),
                    ("SGD", 0.1),
                    ("SGD", 1.0),
                    ("AdamW", 1e-4),
                    ("AdamW", 1e-2),
                    ("AdamW", 0.1),
                ):
                    runs = [train(make, kind, batch, optimizer, rate, seed) for seed in range(seeds)]
                    show(f"{make.__name__}, {kind}, batch {batch}, {optimizer} {rate:g}", runs)


DAMAGES: list[tuple[str, Hurt | None, float | None]] = [
    ("an outlier", outlier, 0.1),
    ("an outlier, momentum 0.01", outlier, 0.01),
    ("another domain, momentum 0.005", other_domain, 0.005),
    ("another domain, momentum 0", other_domain, 0.0),
    ("momentum 0.001", None, 0.001),
    ("healthy, momentum 0.01", None, 0.01),
    ("healthy, momentum None", None, None),
]


def damaged() -> None:
    for make in (cnn, resnet):
        for kind in ("noise", "smooth"):
            for what, hurt, momentum in DAMAGES:
                runs = [
                    train(
                        make, kind, 32, "SGD", 0.01, seed, momentum=momentum, steps=760, every=10, after=500, hurt=hurt
                    )
                    for seed in range(2)
                ]
                show(f"{make.__name__}, {kind}, {what}", runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--healthy", action="store_true")
    which.add_argument("--damaged", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.damaged:
        healthy()
    if not arguments.healthy:
        damaged()


if __name__ == "__main__":
    main()
