"""What forensics costs: a healthy step with the batch kept by reference, and the one step that is looked into.

    python -m benchmarks.forensics.run [--rounds 60]

Writes `results.json` and `README.md` beside this file. Steps are paired in one process, in turn, on networks that are
equal (those of `benchmarks/guard`); the figure is the median over the rounds, of the difference for what is added. A
failing step is timed by itself, on a guard that has seen none yet; the median of several.
"""

import argparse
import json
import logging
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.guard.run import Make, Run, gpt, mlp, resnet
from torchmend import Cause, Guard

HERE = Path(__file__).parent
PAGE = """# What forensics costs

    python -m benchmarks.forensics.run

Eager mode, CPU, {machine}. The networks are those of [the guard's page](../guard/README.md).

## A healthy step

The batch is kept by reference until the verdict, with the states of the random generators. Medians of {rounds} rounds
or more; *added* is the median of the paired differences between a guard that keeps it and one that does not. On the two
larger networks it lies within the noise of some 1 ms; what is added is work of the host, the same for every network.

| network | plain, ms | guard without, ms | guard, ms | added, microseconds | of a plain step |
|---|---|---|---|---|---|
{healthy}

## The step that is looked into

One example overflows (of the decoder: one word). The batch is run again under probes, parts of it are run to find the
example, and changes are tried; at most once in 50 steps for one origin. Medians of {failures}.

| network | in all, ms | in plain steps | a capsule adds, ms | its size, MB |
|---|---|---|---|---|
{failing}
"""
NEVER = {"check_every": 0, "sample_every": 10**9, "ring": None, "reservoir": 0}
FAILURES = 5


def healthy(make: Make, rounds: int) -> dict[str, float]:
    """Time ordinary steps in pairs: without a guard, with one that keeps no batch, with one that does."""
    runs = {
        "plain": Run(make, None),
        "without": Run(make, {**NEVER, "localise": False}, observed=True),
        "with": Run(make, NEVER, observed=True),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for at in range(rounds + 5):
        names = list(runs)
        for name in names[at % 3 :] + names[: at % 3]:
            took = timed(runs[name].step)
            if at >= 5:
                times[name].append(took)
    added = statistics.median(b - a for a, b in zip(times["without"], times["with"], strict=True))
    return {**{name: statistics.median(each) for name, each in times.items()}, "added": added}


def failing(make: Make, *, kept: bool) -> dict[str, Any]:
    """Time the step whose batch holds an example of NaN, with a fresh guard each time."""
    took, nbytes, samples = [], 0, ()
    for _ in range(FAILURES):
        with tempfile.TemporaryDirectory() as folder:
            run = Run(make, None)
            spoil(run)
            with Guard(run.model, run.optimizer, **NEVER, capsules=folder if kept else None) as guard:
                took.append(timed(run.step))
            (found,) = [each.incident for each in guard.events.decisions if each.incident is not None]
            assert found.found.cause in (Cause.INPUT, Cause.MODULE, Cause.PARAMETER), found
            samples = found.found.samples
            nbytes = sum(each.stat().st_size for each in Path(folder).rglob("*") if each.is_file())
    return {"ms": statistics.median(took), "bytes": nbytes, "samples": list(samples)}


def spoil(run: Run) -> None:
    """Make one example overflow inside of the network, or a weight NaN where inputs are words."""
    if run.inputs.is_floating_point():
        run.inputs[3].fill_(1e30)
    else:
        next(iter(run.model.modules())).embed.weight.data[int(run.inputs[3, 0])] = 1e30


def timed(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def page(results: dict[str, Any], rounds: int) -> str:
    machine = results["machine"]
    rows = [
        f"| {name} | {each['healthy']['plain']:.2f} | {each['healthy']['without']:.2f} | {each['healthy']['with']:.2f} "
        f"| {1e3 * each['healthy']['added']:.0f} | {each['healthy']['added'] / each['healthy']['plain']:.2%} |"
        for name, each in results["networks"].items()
    ]
    found = [
        f"| {name} | {each['failing']['ms']:.0f} | {each['failing']['ms'] / each['healthy']['plain']:.0f} "
        f"| {each['kept']['ms'] - each['failing']['ms']:.0f} | {each['kept']['bytes'] / 1e6:.1f} |"
        for name, each in results["networks"].items()
    ]
    said = f"{machine['threads']} threads, Python {machine['python']}, torch {machine['torch']}; {machine['said']}"
    return PAGE.format(
        machine=said,
        rounds=rounds,
        healthy="\n".join(rows),
        failing="\n".join(found),
        failures=FAILURES,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--said", default="a quiet machine", help="how busy the machine was")
    options = parser.parse_args()
    logging.disable()
    results: dict[str, Any] = {
        "machine": {
            "python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads(),
            "said": options.said,
        },
        "networks": {},
    }  # fmt: skip
    for make, times in ((resnet, 1), (gpt, 1), (mlp, 20)):
        results["networks"][make.__name__] = {
            "healthy": healthy(make, options.rounds * times),
            "failing": failing(make, kept=False),
            "kept": failing(make, kept=True),
        }
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (HERE / "README.md").write_text(page(results, options.rounds))


if __name__ == "__main__":
    main()
