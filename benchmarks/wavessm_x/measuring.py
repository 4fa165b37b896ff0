"""What the benchmarks of WaveSSM-X measure with: memory at most, turns, and a word on the machine (Linux)."""

import ctypes
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

Times = dict[str, list[tuple[float, float]]]
"""Of each contestant, one pair a round: seconds on the clock, and seconds of the CPU."""


def machine() -> dict[str, object]:
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load_before": os.getloadavg()[0],
    }


def sentence(about: dict) -> str:
    """Say what a machine is."""
    versions = f"Python {about['python']}, torch {about['torch']}"
    return (
        f"{about['cores']} cores, 1 thread, {versions}. The load before the run was {about['load_before']:.1f};\n"
        "above 0 others were working on the machine, and the seconds on its CPU tell more than those on the clock."
    )


def peak_anew() -> None:
    """Have the peak of this process's memory start from what it holds now, without what it has freed."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Return the most memory that this process has held, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def taken(call: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that a call takes, on the clock and of the CPU."""
    start, spent = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - spent


def in_turn(contestants: dict[str, Callable[[], object]], rounds: int) -> Times:
    """Time contestants in turn, each round from another one on; a first round is not counted."""
    times: Times = {name: [] for name in contestants}
    order = list(contestants)
    for at in range(rounds + 1):
        first = at % len(order)
        for name in order[first:] + order[:first]:
            pair = taken(contestants[name])
            if at:
                times[name].append(pair)
    return times
