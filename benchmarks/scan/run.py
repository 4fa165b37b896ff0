"""How fast `torchmend diagnose` and `torchmend fix` are, against what else one would do, side by side in one run.

    python benchmarks/scan/run.py [--gigabytes 2] [--folder build/scan] [--rounds 5] [--weightlens PYTHON]

Writes `results.json` and `README.md` beside this file. Each figure is the median of the rounds, and within a round the
contestants run one after the other. weightlens is compared if the Python of an environment that has it is given.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import contestants as who
import numpy as np
import torch
from aminmax import bad_tensors
from files import DTYPES, FAULTS, FORMATS, large
from page import page

from torchmend.doctor.diagnosing import diagnose_file
from torchmend.measure.workers import this_machine, workers

HERE = Path(__file__).parent
SLOW_ROUNDS = 3
"""Rounds of what takes many seconds."""


def main() -> None:
    options = _options()
    options.folder.mkdir(parents=True, exist_ok=True)
    lens = who.Weightlens(options.weightlens) if options.weightlens else None
    results = {"machine": _machine(options), "scan": {}, "cold": {}, "memory_mb": {}}
    for form in FORMATS:
        for dtype in DTYPES:
            path = large(options.folder, form, dtype, options.gigabytes)
            name = f"{form.name}, {str(dtype).removeprefix('torch.')}"
            print(name, flush=True)
            results["scan"][name] = _scan(path, options.rounds, lens)
            if dtype is torch.float32:
                results["cold"][name] = _cold(path, options.rounds)
                results["memory_mb"][name] = _memory(path, lens)
            if dtype is torch.float32 and form is FORMATS[0]:
                results["fix"] = _fix(path, options.rounds)
            path.unlink()
    results["finds"] = _finds(options.folder, lens)
    results["start"] = _start(options.folder, 2 * options.rounds + 1)
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (HERE / "README.md").write_text(page(results))
    print(page(results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, default=Path("build/scan"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weightlens", type=Path, metavar="PYTHON")
    return parser.parse_args()


def _machine(options: argparse.Namespace) -> dict:
    return {
        "cores": this_machine().cores,
        "threads": workers(this_machine()),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "rounds": options.rounds,
        "gigabytes": options.gigabytes,
    }


def _timed(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def _medians(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Run every contestant once a round, and once before; return each one's median in seconds."""
    for job in contestants.values():
        job()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, job in contestants.items():
            times[name].append(_timed(job))
    return {name: statistics.median(each) for name, each in times.items()}


def _scan(path: Path, rounds: int, lens: who.Weightlens | None) -> dict[str, float]:
    """Measure with a warm page cache; GB/s and ratios."""
    fast = {
        "raw_read": lambda: who.raw_read(path),
        "torchmend": lambda: diagnose_file(path),
        "verify": lambda: diagnose_file(path, verify_checksums=True),
    }
    slow = {"aminmax": lambda: bad_tensors(path), "isfinite_loop": lambda: who.isfinite_loop(path)}
    medians = {**_medians(fast, 4 * rounds), **_medians(slow, min(rounds, SLOW_ROUNDS))}
    if lens:
        medians["weightlens"] = statistics.median(lens.seconds(path) for _ in range(min(rounds, SLOW_ROUNDS)))
    size = path.stat().st_size
    return {
        **{f"{name}_gb_per_s": size / seconds / 1e9 for name, seconds in medians.items()},
        "of_raw_read": medians["raw_read"] / medians["torchmend"],
        "times_the_loop": medians["isfinite_loop"] / medians["torchmend"],
    }


def _cold(path: Path, rounds: int) -> dict[str, float]:
    """Measure with the file thrown out of memory before each run, in seconds; nothing runs beforehand."""
    jobs = {
        "cat": lambda: who.cat(path),
        "torchmend": lambda: diagnose_file(path),
        "verify": lambda: diagnose_file(path, verify_checksums=True),
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(2 * rounds):
        for name, job in jobs.items():
            who.evict(path)
            times[name].append(_timed(job))
    medians = {name: statistics.median(each) for name, each in times.items()}
    return {
        **medians,
        "of_cat": medians["torchmend"] / medians["cat"],
        "verify_of_cat": medians["verify"] / medians["cat"],
    }


def _memory(path: Path, lens: who.Weightlens | None) -> dict[str, float]:
    found = {
        "torchmend": who.anonymous_memory(who.torchmend_command(path)),
        "aminmax": who.anonymous_memory(who.aminmax_command(path)),
    }
    if lens:
        found["weightlens"] = who.anonymous_memory(lens.command(path))
    return found


def _finds(folder: Path, lens: who.Weightlens | None) -> dict[str, dict[str, str]]:
    """Return what each says of small faulty files: found, nothing or not analysed."""
    verdicts = {"torchmend": who.torchmend_verdict, "aminmax": who.aminmax_verdict}
    if lens:
        verdicts["weightlens"] = lens.verdict
    results = {}
    path = folder / "faulty.pth"
    for fault, write in FAULTS:
        write(path)
        results[fault] = {name: verdict(path) for name, verdict in verdicts.items()}
    path.unlink()
    return results


def _fix(path: Path, rounds: int) -> dict[str, float]:
    fixed, copied = path.with_name("fixed.pth"), path.with_name("copied.pth")

    def copy() -> None:
        subprocess.run(["cp", str(path), str(copied)], check=True)
        with copied.open("rb") as file:
            os.fsync(file.fileno())
        copied.unlink()

    def fix() -> None:
        command = [sys.executable, "-m", "torchmend", "fix", str(path), "-o", str(fixed)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for written in path.parent.glob("fixed.*"):
            written.unlink()

    medians = _medians({"cp_and_fsync": copy, "torchmend_fix": fix}, rounds)
    return {**medians, "of_cp": medians["torchmend_fix"] / medians["cp_and_fsync"]}


def _start(folder: Path, rounds: int) -> dict[str, float]:
    path = folder / "small.pth"
    torch.save({"weight": torch.zeros(3)}, path)

    def python(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

    medians = _medians(
        {
            "torchmend_diagnose": lambda: python("-m", "torchmend", "diagnose", str(path)),
            "import_torch": lambda: python("-c", "import torch"),
        },
        rounds,
    )
    path.unlink()
    return {**medians, "of_import_torch": medians["torchmend_diagnose"] / medians["import_torch"]}


if __name__ == "__main__":
    main()
