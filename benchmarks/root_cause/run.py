"""One overflowing batch, met in every way there is, and the checkpoint that it leaves, repaired in every way.

    python -m benchmarks.root_cause.run [--seeds 0 1 2]
    python -m benchmarks.root_cause.run --page

Writes `results.json`, `README.md` and `around.png` beside this file. With `--page` nothing is run, and page and picture
are made again from `results.json`.
"""

import argparse
import json
import logging
import math
import platform
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.root_cause.page import page
from benchmarks.root_cause.picture import draw
from benchmarks.root_cause.repairs import repaired
from benchmarks.root_cause.spectrum import PHOTOGRAPHS, SIDES, peaks
from benchmarks.root_cause.training import FAULT, NOTHING, WAYS, Course, train

HERE = Path(__file__).parent
AROUND = range(FAULT - 20, FAULT + 70, 2)
"""Steps that the picture shows."""

SHOWN = {
    "nothing": "a GradScaler alone",
    "0/1 before validations and every 100 steps": "and 0/1 before validations",
    "torchmend's guard": "torchmend's guard",
    "no fault": "no fault",
}
"""What the picture shows, and under which name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--page", action="store_true", help="only make page and picture again, from results.json")
    given = parser.parse_args()
    if not given.page:
        (HERE / "results.json").write_text(json.dumps(measured(given.seeds), indent=1) + "\n")
    results = json.loads((HERE / "results.json").read_text())
    (HERE / "README.md").write_text(page(results))
    draw({told: results["around"][name] for name, told in SHOWN.items()}, HERE / "around.png")
    print(page(results))


def measured(seeds: list[int]) -> dict[str, Any]:
    """Run everything."""
    torch.set_num_threads(1)
    logging.getLogger("torchmend").setLevel(logging.CRITICAL)  # its decisions are in the figures
    warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")  # a scaler that skips a first step
    began = time.perf_counter()
    results: dict[str, Any] = {
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}",
        "seeds": seeds,
        "photographs": len(PHOTOGRAPHS),
        "spectrum": [peaks(side) for side in SIDES],
        "runs": [],
        "around": {},
        "repairs": [],
    }
    for seed in seeds:
        for way in WAYS:
            for scaled in (False, True):
                is_shown = scaled and seed == seeds[0] and way.name in SHOWN
                course = train(way, seed, scaled=scaled, watched=AROUND if is_shown else range(0))
                results["runs"].append(told(course, way.name, seed, scaled=scaled))
                print(results["runs"][-1], flush=True)
                if is_shown:
                    results["around"][way.name] = around(course)
                if way is NOTHING and scaled:
                    results["repairs"].append({name: finite(psnr) for name, psnr in repaired(course, seed).items()})
                    print(results["repairs"][-1], flush=True)
    return {**results, "minutes": round((time.perf_counter() - began) / 60, 1)}


def told(course: Course, name: str, seed: int, *, scaled: bool) -> dict[str, Any]:
    """Return what the page needs of a run."""
    return {
        "way": name,
        "scaled": scaled,
        "seed": seed,
        "hurt": course.hurt,
        "scores": [finite(each) for each in course.scores],
    }


def around(course: Course) -> dict[str, list[Any]]:
    """Return what the picture needs of a run."""
    return {
        "steps": list(course.watched),
        "losses": [finite(course.losses[step]) for step in course.watched],
        "psnr": [finite(each) for each in course.watched.values()],
    }


def finite(value: float) -> float | None:
    """Return a number to a thousandth, and None for what JSON does not have."""
    return round(value, 3) if math.isfinite(value) else None


if __name__ == "__main__":
    main()
