"""Tables of what was measured."""

import os
import platform
from dataclasses import dataclass
from statistics import mean

import numpy as np
import torch

HEALTHY = "healthy"
COMMAND = "python benchmarks/repair/run.py"
HOW = (
    "Each network is saved by `torch.save`, damaged as a file, repaired, loaded by `torch.load` and evaluated. "
    "Cells: mean / worst metric over the draws (five seeds, or each layer in turn). *reset* is the classic "
    "recipe, the whole damaged statistic to mean 0 or variance 1; *ladder* is what `torchmend fix` does by "
    "itself; the columns between force one predictor on the damaged channels, and the family's median where "
    "that predictor is not to be had (*ratio* needs the channel's other statistic)."
)
CAVEAT = (
    "These networks also served to choose the predictors, so the figures are not those of unseen networks. "
    "The layer that sees the raw input is the hard case: when both its statistics are lost, nothing in the "
    "file tells how large that input is."
)


@dataclass(frozen=True)
class Result:
    """The metric of one network after one damage and one repair."""

    network: str
    damage: str
    draw: str
    method: str
    metric: float

    def as_json(self) -> dict[str, str | float]:
        """Return the fields, the metric rounded."""
        fields = ("network", "damage", "draw", "method")
        return {**{name: getattr(self, name) for name in fields}, "metric": round(self.metric, 4)}


def machine() -> dict[str, str | int | None]:
    """Return what the figures were measured on."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads used": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def render(about: dict[str, str], results: list[Result]) -> str:
    """Return the whole page."""
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    parts = [
        "# How good repaired statistics are",
        f"Written by `{COMMAND}`. Machine: {facts}.",
        HOW,
        CAVEAT,
        *(_section(name, text, [r for r in results if r.network == name]) for name, text in about.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _section(name: str, about: str, results: list[Result]) -> str:
    healthy = next(r.metric for r in results if r.method == HEALTHY)
    damaged = [r for r in results if r.method != HEALTHY]
    methods = list(dict.fromkeys(r.method for r in damaged))
    lines = [
        f"## {name}",
        "",
        f"{about[0].upper()}{about[1:]}. Healthy: {healthy:.3f}.",
        "",
        f"| damage | {' | '.join(methods)} | ladder of healthy, mean / worst |",
        "|---" * (len(methods) + 2) + "|",
    ]
    for damage in dict.fromkeys(r.damage for r in damaged):
        rows = [r for r in damaged if r.damage == damage]
        cells = [cell([r.metric for r in rows if r.method == method]) for method in methods]
        relative = cell([r.metric / healthy for r in rows if r.method == "ladder"])
        lines.append(f"| {damage} | {' | '.join(cells)} | {relative} |")
    return "\n".join(lines)


def cell(metrics: list[float]) -> str:
    """Return mean and worst, or a dash for none."""
    return f"{mean(metrics):.3f} / {min(metrics):.3f}" if metrics else "-"
