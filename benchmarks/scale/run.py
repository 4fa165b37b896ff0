"""What a tensor costs, whatever their number: 1,000, 10,000 and 100,000 in a file; and plans of 1,000 repairs.

    python benchmarks/scale/run.py [--folder .cache/scale] [--rounds 3] [--most 100000]

Writes `results.json` and `README.md` beside this file. Everything runs in one process with a warm page cache; each
figure is the median of the rounds. Files are written once and kept in the folder.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
from files import state_dict, written

from torchmend.doctor.diagnosing import diagnose_source
from torchmend.doctor.file_source import FileSource
from torchmend.measure.workers import available_cores
from torchmend.repairs.donors import Donor
from torchmend.repairs.planning import plan_repair
from torchmend.rules.roles import main_container

HERE = Path(__file__).parent
KINDS = {"zip": "torch zip", "safetensors": "safetensors", "training": "torch zip, model and Adam"}
PARTS = ("parse", "measure", "judge")
SIZES = (1_000, 10_000, 100_000)
PLANNED = 10_000
DAMAGED = 1_000
LOST = 10


def main() -> None:
    options = _options()
    results = {
        "machine": {
            "cores": available_cores(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "rounds": options.rounds,
        },
        "files": [],
        "plans": [],
    }
    for kind, title in KINDS.items():
        for tensors in (size for size in SIZES if size <= options.most):
            print(f"{title}, {tensors:,} tensors ...", file=sys.stderr)
            path = written(options.folder, kind, tensors)
            results["files"].append({"kind": kind, **_costs(path, options.rounds)})
    print("plans ...", file=sys.stderr)
    results["plans"] = _plans(options.folder, options.rounds)
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (HERE / "README.md").write_text(_page(results), encoding="utf-8")
    print(_page(results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(".cache/scale"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=int, default=SIZES[-1])
    return parser.parse_args()


# Diagnosing: what a tensor costs


def _costs(path: Path, rounds: int) -> dict[str, float]:
    """Return microseconds a tensor, whole and by part, and the anonymous memory of a process that diagnoses it."""
    times = [_parts(path) for _ in range(rounds)]
    tensors = times[0].pop("tensors")
    seconds = statistics.median(sum(each[part] for part in PARTS) for each in times)
    return {
        "tensors": int(tensors),
        "seconds": seconds,
        "microseconds": seconds / tensors * 1e6,
        **{part: statistics.median(each[part] for each in times) / tensors * 1e6 for part in PARTS},
        "memory_mb": _anonymous_memory(path),
    }


def _parts(path: Path) -> dict[str, float]:
    """Return the seconds of one diagnosis: bytes to refs with roles, refs to measures, measures to findings.

    These three calls are what `diagnose_file` does.
    """
    start = time.perf_counter()
    with FileSource(path) as source:
        parsed = time.perf_counter()
        len(source.measures)
        measured = time.perf_counter()
        diagnose_source(source)
        judged = time.perf_counter()
        tensors = len(source.refs)
    return {"tensors": tensors, "parse": parsed - start, "measure": measured - parsed, "judge": judged - measured}


def _anonymous_memory(path: Path) -> float:
    """Return the most anonymous memory, in MB, of a process that diagnoses the file (sampled; Linux only)."""
    statement = f"import torchmend; torchmend.diagnose({str(path)!r})"
    process = subprocess.Popen([sys.executable, "-c", statement])
    most = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            break
        most = max([most, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))])
        threading.Event().wait(0.01)
    process.wait()
    return most / 1000


# Planning: 1,000 repairs among 10,000 tensors


def _plans(folder: Path, rounds: int) -> list[dict[str, object]]:
    folder.mkdir(parents=True, exist_ok=True)
    healthy = state_dict(PLANNED)
    donor = written(folder, "zip", PLANNED)
    statistic = [name for name in healthy if name.endswith(("running_mean", "running_var"))]
    weights = [name for name in healthy if name.endswith(("conv.weight", "bn.weight"))]
    cases = [
        (f"{DAMAGED:,} statistics, one channel each", statistic[:DAMAGED], slice(3, 4), False),
        (f"the same {DAMAGED:,} statistics, from a donor", statistic[:DAMAGED], slice(3, 4), True),
        (f"{DAMAGED:,} weights, from a donor", weights[:DAMAGED], slice(3, 4), True),
        (f"{LOST} statistics lost whole, in {LOST} layers", statistic[: 2 * LOST : 2], slice(None), False),
    ]
    return [_plan_time(folder / "damaged.pth", *case, donor, rounds) for case in cases]


def _plan_time(
    path: Path, title: str, names: list[str], where: slice, with_donor: bool, donor: Path, rounds: int
) -> dict[str, object]:
    state = state_dict(PLANNED)
    for name in names:
        state[name].view(-1)[where] = float("nan")
    torch.save({"state_dict": state}, path)
    with FileSource(path) as source, FileSource(donor) as healthy:
        diagnosis = diagnose_source(source)
        len(healthy.measures)
        donors = [Donor(name="donor", source=healthy, main=main_container(healthy.refs))] if with_donor else []
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            edits = len(plan_repair(diagnosis, source, donors=donors).edits)
            times.append(time.perf_counter() - start)
    path.unlink()
    seconds = statistics.median(times)
    return {"title": title, "seconds": seconds, "edits": edits, "milliseconds_an_edit": seconds / edits * 1e3}


def _page(results: dict) -> str:
    machine = results["machine"]
    rows = "\n".join(
        f"| {KINDS[row['kind']]} | {row['tensors']:,} | {row['seconds']:.2f} | {row['microseconds']:.0f} "
        f"| {row['parse']:.0f} | {row['measure']:.0f} | {row['judge']:.0f} | {row['memory_mb']:.0f} |"
        for row in results["files"]
    )
    plans = "\n".join(
        f"| {row['title']} | {row['seconds']:.2f} | {row['milliseconds_an_edit']:.2f} |" for row in results["plans"]
    )
    return f"""# Many tensors

    python benchmarks/scale/run.py

{machine["cores"]} cores, Python {machine["python"]}, numpy {machine["numpy"]}; files in the page cache, medians of
{machine["rounds"]} rounds. The tensors are small (16 channels: convolutions, each with a BatchNorm layer), so that the
time is that of the bookkeeping, not of the numbers; [benchmarks/scan](../scan/README.md) has the opposite case.

## Diagnosing: microseconds a tensor

| file | tensors | whole, s | whole | parsing and roles | measuring | rules | anonymous memory, MB |
|---|---|---|---|---|---|---|---|
{rows}

The cost is flat when "whole" is the same in the rows of a kind of file. Memory is that of a whole process, start
included.

## Planning repairs in a file of {PLANNED:,} tensors

| damage | seconds | milliseconds an edit |
|---|---|---|
{plans}
"""


if __name__ == "__main__":
    main()
