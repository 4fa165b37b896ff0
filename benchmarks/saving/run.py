"""What `torchmend.save` costs against `torch.save` and an fsync of the same file, side by side in one process.

    python benchmarks/saving/run.py [--rounds 15] [--folder DISK] [--dry-run]

Writes `results.json` and `README.md` beside this file. The state has the tensors of a ResNet-50 with AdamW's moments.
In each round the contestants run one after the other, each round begins with another one, and a ratio is the median
of the ratios within rounds: a disk is never equally fast twice.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import torchmend
from torchmend.live.saving import examined
from torchmend.measure.workers import available_cores

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "live"))


def main() -> None:
    options = _options()
    state = _state()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        rounds = _rounds(_contestants(state, Path(name)), options.rounds)
    medians = {each: statistics.median(took[each] for took in rounds) for each in rounds[0]}
    base = "torch.save, fsync, rename"
    results = {
        "machine": {
            "cores": available_cores(),
            "load": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "rounds": options.rounds,
        },
        "megabytes": sum(_sizes(state)) / 1e6,
        "tensors": len(_sizes(state)),
        "milliseconds": medians,
        "ratios": {each: statistics.median(took[each] / took[base] for took in rounds) for each in medians},
    }
    print(_page(results))
    if not options.dry_run:
        (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        (HERE / "README.md").write_text(_page(results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, help="where to write; the system's temporary folder without it")
    parser.add_argument("--dry-run", action="store_true", help="print only")
    return parser.parse_args()


def _state() -> dict[str, dict]:
    from run import network  # the one beside benchmarks/live/run.py

    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iteration": 1}


def _sizes(state: dict) -> list[int]:
    tensors = [*state["model"].values()]
    tensors += [value for each in state["optimizer"]["state"].values() for value in each.values()]
    return [tensor.nbytes for tensor in tensors]


def _contestants(state: dict, folder: Path) -> dict[str, Callable[[], object]]:
    def plain() -> None:
        torch.save(state, folder / "plain.pt")

    def careful() -> None:
        torch.save(state, folder / "careful.tmp")
        with (folder / "careful.tmp").open("rb") as file:
            os.fsync(file.fileno())
        (folder / "careful.tmp").replace(folder / "careful.pt")

    return {
        "torch.save": plain,
        "torch.save, fsync, rename": careful,
        "torchmend.save, keep=1": lambda: torchmend.save(state, folder / "one.pt", keep=1),
        "torchmend.save, keep=3": lambda: torchmend.save(state, folder / "three.pt", keep=3),
        "the check alone": lambda: examined(state),
    }


def _rounds(contestants: dict[str, Callable[[], object]], rounds: int) -> list[dict[str, float]]:
    """Run every contestant once a round, and once before; return what each took in each round, in milliseconds."""
    names = list(contestants)
    for name in names:
        contestants[name]()
    found = []
    for at in range(rounds):
        took = {}
        for name in names[at % len(names) :] + names[: at % len(names)]:
            os.sync()  # nobody pays for what another one left to be written
            start = time.perf_counter()
            contestants[name]()
            took[name] = (time.perf_counter() - start) * 1e3
        found.append({name: took[name] for name in names})
    return found


def _page(results: dict) -> str:
    machine = results["machine"]
    rows = [
        f"| {name} | {took:.0f} | {results['ratios'][name]:.2f} |" for name, took in results["milliseconds"].items()
    ]
    where = f"{machine['cores']} cores (load {machine['load']} at the end), Python {machine['python']}"
    libraries = f"numpy {machine['numpy']}, torch {machine['torch']} (CPU)"
    state = f"{results['megabytes']:.0f} MB in {results['tensors']} tensors"
    return f"""# What a safe save costs

    python benchmarks/saving/run.py

{where}, {libraries}; a state of {state}: a ResNet-50 with AdamW.
Medians of {machine["rounds"]} rounds side by side in one process; a ratio is the median of the ratios within the
rounds.

| what | ms | times `torch.save`, fsync, rename |
|---|---|---|
{chr(10).join(rows)}

`torch.save` alone leaves the writing to the system, and a crash within the next seconds leaves an empty or half file;
it is no fair measure, and stands here since it is what most people run. The check is part of `torchmend.save`.
"""


if __name__ == "__main__":
    main()
