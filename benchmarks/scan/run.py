"""How fast `torchmend diagnose` and `torchmend fix` are, against what else one would do, side by side in one run.

    python benchmarks/scan/run.py [--gigabytes 2] [--folder build/scan] [--rounds 5]

Writes `results.json` and `README.md` beside this file. Everything is measured with a warm page cache; each
figure is the median of the rounds, and within a round the contestants run one after the other.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from torchmend.doctor.diagnosing import diagnose_file
from torchmend.doctor.file_source import FileSource
from torchmend.measure.chunks import CHUNK_BYTES
from torchmend.measure.scan import PIECE_BYTES, available_cores

HERE = Path(__file__).parent
TENSOR_BYTES = 32 << 20


def main() -> None:
    options = _options()
    options.folder.mkdir(parents=True, exist_ok=True)
    results = {
        "machine": {
            "cores": available_cores(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "rounds": options.rounds,
            "gigabytes": options.gigabytes,
        },
        "scan": {},
    }
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        path = _checkpoint(options.folder, dtype, options.gigabytes)
        results["scan"][str(dtype).removeprefix("torch.")] = _scan(path, options.rounds)
        if dtype is torch.float32:
            results["memory_mb"] = _anonymous_memory(path)
            results["fix"] = _fix(path, options.rounds)
        path.unlink()
    results["start"] = _start(options.folder, 2 * options.rounds + 1)
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (HERE / "README.md").write_text(_page(results))
    print(_page(results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, default=Path("build/scan"))
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def _checkpoint(folder: Path, dtype: torch.dtype, gigabytes: float) -> Path:
    """Write a healthy model with one BatchNorm layer whose variance has a NaN; the rest is large weights."""
    path = folder / f"{str(dtype).removeprefix('torch.')}.pth"
    numel = TENSOR_BYTES // dtype.itemsize
    count = int(gigabytes * 1e9) // TENSOR_BYTES
    torch.manual_seed(0)
    state = {f"layer{i}.weight": torch.randn(numel // 1024, 1024).to(dtype) for i in range(count)}
    state["bn.running_mean"], state["bn.running_var"] = torch.zeros(64), torch.ones(64)
    state["bn.running_var"][3] = float("nan")
    torch.save({"model_state_dict": state}, path)
    return path


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


def _scan(path: Path, rounds: int) -> dict[str, float]:
    medians = _medians(
        {
            "raw_read": lambda: _raw_read(path),
            "torchmend": lambda: diagnose_file(path),
            "isfinite_loop": lambda: _isfinite_loop(path),
        },
        rounds,
    )
    size = path.stat().st_size
    return {
        **{f"{name}_gb_per_s": size / seconds / 1e9 for name, seconds in medians.items()},
        "of_raw_read": medians["raw_read"] / medians["torchmend"],
        "times_the_loop": medians["isfinite_loop"] / medians["torchmend"],
    }


def _raw_read(path: Path) -> None:
    """Sum every byte as int64: the same memory map, chunks and threads as the scan, and the least work."""
    with FileSource(path) as source:
        buffer = source.contents.files[0].buffer
        size = source.contents.files[0].size & ~7
        flat = np.frombuffer(buffer, dtype=np.int64, count=size // 8)
        step, piece = CHUNK_BYTES // 8, PIECE_BYTES // 8

        def read(start: int) -> int:
            end = min(start + piece, len(flat))
            return sum(int(flat[at : min(at + step, end)].sum()) for at in range(start, end, step))

        with ThreadPoolExecutor(available_cores()) as pool:
            sum(pool.map(read, range(0, len(flat), piece)))


def _isfinite_loop(path: Path) -> None:
    """Do what everybody writes."""
    state = torch.load(path, weights_only=True)["model_state_dict"]
    for tensor in state.values():
        bool(torch.isfinite(tensor).all())


def _anonymous_memory(path: Path) -> float:
    """Return the most anonymous memory, in MB, that `torchmend diagnose` had at any time (sampled)."""
    process = subprocess.Popen([sys.executable, "-m", "torchmend", "diagnose", str(path)], stdout=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        found = [line for line in status.splitlines() if line.startswith("RssAnon")]
        most = max([most, *(int(line.split()[1]) for line in found)])
        threading.Event().wait(0.002)
    return most / 1000


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


def _page(results: dict) -> str:
    machine, fix, start = results["machine"], results["fix"], results["start"]
    rows = "\n".join(
        f"| {name} | {row['raw_read_gb_per_s']:.1f} | {row['torchmend_gb_per_s']:.1f} "
        f"| {row['isfinite_loop_gb_per_s']:.2f} | {row['of_raw_read']:.2f} | {row['times_the_loop']:.0f} |"
        for name, row in results["scan"].items()
    )
    return f"""# Scan, repair and start-up

    python benchmarks/scan/run.py

{machine["cores"]} cores, Python {machine["python"]}, numpy {machine["numpy"]}, torch {machine["torch"]} (CPU),
files of {machine["gigabytes"]:g} GB in the page cache, medians of {machine["rounds"]} rounds side by side.

| file | raw read, GB/s | `torchmend diagnose`, GB/s | load and loop, GB/s | of the raw read | times the loop |
|---|---|---|---|---|---|
{rows}

The raw read sums every byte as int64, through the same memory map, in the same chunks, with the same threads.
"Load and loop" is `torch.load` and `isfinite().all()` on every tensor.

- Anonymous memory of `torchmend diagnose` on the float32 file: {results["memory_mb"]:.0f} MB at most.
- `torchmend fix` of the float32 file (copy, patch, check, fsync): {fix["torchmend_fix"]:.2f} s; `cp` and fsync:
  {fix["cp_and_fsync"]:.2f} s; ratio {fix["of_cp"]:.2f}.
- `torchmend diagnose` of a file of 1 kB, start to end: {start["torchmend_diagnose"]:.2f} s; `import torch`:
  {start["import_torch"]:.2f} s; ratio {start["of_import_torch"]:.2f}.
"""


if __name__ == "__main__":
    main()
