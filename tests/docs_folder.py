"""The folder in which the examples of the documentation run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).parents[1]
INCIDENTS = (ROOT / "docs" / "incidents.md").read_text(encoding="utf-8")


class Network(nn.Module):
    """A convolution, its BatchNorm and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.bn(self.conv(image)).relu().mean(dim=(2, 3)))


def trained() -> Network:
    """Return a network that has seen a few batches; the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network().train()
        with torch.no_grad():
            for _ in range(50):
                network(torch.randn(4, 3, 8, 8) + 0.5)
    return network


def make_example_files(folder: Path) -> None:
    """Write what the pages name: a run with a healthy best and a damaged last checkpoint."""
    healthy = trained().state_dict()
    damaged = {name: value.clone() for name, value in healthy.items()}
    damaged["bn.running_mean"][2] = float("inf")
    damaged["bn.running_var"][[2, 5]] = float("nan")
    burnt = {name: value.clone() for name, value in healthy.items()}
    burnt["head.weight"][0, 0] = float("nan")
    for where in (folder, folder / "runs" / "7"):
        where.mkdir(parents=True, exist_ok=True)
        torch.save({"model_state_dict": healthy, "iteration": 12_000}, where / "best.pth")
        torch.save({"model_state_dict": damaged, "iteration": 12_500}, where / "last.pth")
    torch.save({"model_state_dict": burnt, "iteration": 13_000}, folder / "burnt.pth")


def run_the_training_of_incidents(folder: Path) -> str:
    """Write the files that the page on incidents shows, run the training as it says, and return what that logs."""
    for text, name in re.findall(r"```python\n(# (\w+\.py)\n.*?)```", INCIDENTS, re.DOTALL):
        (folder / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return done.stderr
