"""Small real checkpoints, ways to damage them, and a way to run the commands, that the tests share."""

import contextlib
import copy
import functools
import io
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from torchmend.cli import classic, main
from torchmend.formats.contents import Contents

Checkpoint = dict[str, Any]

LAYER = "refinement_ffc.scales.0.ffc.local_conv.1"
"""The BatchNorm layer of 64 channels that the tests damage."""

MEAN = f"{LAYER}.running_mean"
VAR = f"{LAYER}.running_var"
CONV_WEIGHT = "refinement_ffc.scales.0.ffc.local_conv.0.weight"
HEAD_BIAS = "head.bias"


class _Branch(nn.Module):
    def __init__(self, wide: int) -> None:
        super().__init__()
        self.local_conv = nn.Sequential(nn.Conv2d(wide, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.local_conv(image)


class _Scale(nn.Module):
    def __init__(self, wide: int) -> None:
        super().__init__()
        self.ffc = _Branch(wide)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.ffc(image)


class _Refinement(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ModuleList([_Scale(16), _Scale(64)])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        for scale in self.scales:
            image = scale(image)
        return image


class Network(nn.Module):
    """Three convolutions, each with a BatchNorm, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.refinement_ffc = _Refinement()
        self.head = nn.Linear(64, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.refinement_ffc(self.stem(image)).mean(dim=(2, 3)))


@functools.cache
def _trained(seed: int) -> Checkpoint:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network().train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2)
        for _ in range(12):
            loss = network(torch.randn(4, 3, 8, 8) * 1.7 + 0.3).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        return {
            "model_state_dict": network.state_dict(),
            "optimizer_state_dict": optimizer.state_dict(),
            "scheduler_state_dict": scheduler.state_dict(),
            "iteration": 12_000,
            "best_psnr": 27.5,
            "extra": {"scaler_state_dict": scaler.state_dict()},
        }


def training_checkpoint(seed: int = 0) -> Checkpoint:
    """Return what a trainer saves after a dozen real steps; a fresh copy each time."""
    return copy.deepcopy(_trained(seed))


def state_dict(seed: int = 0) -> dict[str, torch.Tensor]:
    """Return the trained network's state dict; a fresh copy each time."""
    return training_checkpoint(seed)["model_state_dict"]


def tensor(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    """Return a tensor of the model by its name."""
    return checkpoint["model_state_dict"][name]


def set_elements(checkpoint: Checkpoint, name: str, value: float, index: Iterable[int] | None = None) -> Checkpoint:
    """Overwrite elements (flat indices; all without any) of one tensor of the model, and return the checkpoint."""
    flat = tensor(checkpoint, name).view(-1)
    flat[list(index) if index is not None else slice(None)] = value
    return checkpoint


def infinite_mean(checkpoint: Checkpoint) -> Checkpoint:
    """Put Inf in every channel of one running mean: the damage that the classic recipe is about."""
    return set_elements(checkpoint, MEAN, float("inf"))


def nan_channels(checkpoint: Checkpoint, index: Iterable[int] = (3, 17, 40), name: str = MEAN) -> Checkpoint:
    """Put NaN in some channels of one statistic."""
    return set_elements(checkpoint, name, float("nan"), index)


def negative_variance(checkpoint: Checkpoint, index: Iterable[int] = (5,)) -> Checkpoint:
    """Make a running variance negative in some channels."""
    return set_elements(checkpoint, VAR, -0.25, index)


def nan_weight(checkpoint: Checkpoint, index: Iterable[int] = (0, 100), name: str = CONV_WEIGHT) -> Checkpoint:
    """Put NaN in some elements of a weight."""
    return set_elements(checkpoint, name, float("nan"), index)


def moment(
    checkpoint: Checkpoint, kind: str, value: float, index: Iterable[int] = (0, 1), parameter: int = 0
) -> Checkpoint:
    """Overwrite elements of one optimizer tensor (`exp_avg`, `exp_avg_sq`) of one parameter."""
    checkpoint["optimizer_state_dict"]["state"][parameter][kind].view(-1)[list(index)] = value
    return checkpoint


def infinite_second_moment(checkpoint: Checkpoint) -> Checkpoint:
    """Put Inf in some elements of a second moment."""
    return moment(checkpoint, "exp_avg_sq", float("inf"))


def negative_second_moment(checkpoint: Checkpoint) -> Checkpoint:
    """Make some elements of a second moment negative."""
    return moment(checkpoint, "exp_avg_sq", -1e-6)


def nan_first_moment(checkpoint: Checkpoint) -> Checkpoint:
    """Put NaN in some elements of a first moment."""
    return moment(checkpoint, "exp_avg", float("nan"))


def save(value: Any, path: Path, *, age: int = 0) -> Path:
    """Save with torch and return the path; `age` is in seconds before a fixed day, so that files have an order."""
    torch.save(value, path)
    made_at(path, age)
    return path


def made_at(path: Path, age: int) -> None:
    """Set a file's time of last change to `age` seconds before a fixed day."""
    when = 1_700_000_000 - age
    os.utime(path, (when, when))


def load(path: Path) -> Any:
    """Load with torch, weights only."""
    return torch.load(path, map_location="cpu", weights_only=True)


# Running the commands in this process, as a shell would


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left behind: its exit code and its two streams."""

    rc: int
    stdout: str
    stderr: str


def torchmend(*arguments: object) -> Outcome:
    """Run `torchmend ARGUMENTS`."""
    return _run("torchmend", main.run, arguments)


def diagnose_and_fix(*arguments: object) -> Outcome:
    """Run `python diagnose_and_fix.py ARGUMENTS`."""
    return _run("diagnose_and_fix.py", lambda: sys.exit(classic.run()), arguments)


def _run(program: str, entry: Callable[[], object], arguments: Iterable[object]) -> Outcome:
    stdout, stderr = io.StringIO(), io.StringIO()
    code: object = None
    with (
        mock.patch.object(sys, "argv", [program, *map(str, arguments)]),
        mock.patch.object(sys.modules["__main__"], "__package__", None),  # else usage lines name `python -m pytest`
        mock.patch.dict(os.environ, COLUMNS="80", TERM="dumb"),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            entry()
        except SystemExit as exit_:
            code = exit_.code
    return Outcome(int(code) if isinstance(code, int) else 0, stdout.getvalue(), stderr.getvalue())


def called(contents: Contents) -> set[str]:
    """Return the dotted names of what a file's pickles wanted to call."""
    return {wanted.dotted for wanted in contents.imports if wanted.call}
