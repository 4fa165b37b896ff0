"""Who is measured: torchmend, and what else there is for the same task."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from aminmax import tensors
from files import loader

from torchmend.doctor.file_source import FileSource
from torchmend.measure.chunks import CHUNK_BYTES
from torchmend.measure.scan import PIECE_BYTES
from torchmend.measure.workers import this_machine, workers

HERE = Path(__file__).parent


def raw_read(path: Path) -> None:
    """Sum every byte as int64: the same memory map, chunks and threads as the scan, and the least work."""
    with FileSource(path) as source:
        (file,) = source.contents.files
        flat = np.frombuffer(file.buffer, dtype=np.int64, count=file.size // 8)
        step, piece = CHUNK_BYTES // 8, PIECE_BYTES // 8

        def read(start: int) -> int:
            end = min(start + piece, len(flat))
            return sum(int(flat[at : min(at + step, end)].sum()) for at in range(start, end, step))

        with ThreadPoolExecutor(workers(this_machine())) as pool:
            sum(pool.map(read, range(0, len(flat), piece)))


def isfinite_loop(path: Path) -> None:
    """Do what everybody writes."""
    state = torch.load(path, weights_only=True) if path.suffix == ".pth" else loader(path)(path)
    for tensor in tensors(state):
        bool(torch.isfinite(tensor).all())


def cat(path: Path) -> None:
    subprocess.run(["cat", str(path)], check=True, stdout=subprocess.DEVNULL)


def evict(path: Path) -> None:
    """Have the system forget the file's bytes, so that they come from the disk next time."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


_WEIGHTLENS = """
import sys, time
from weightlens.cli import run_cli
start = time.perf_counter()
run_cli(["analyze", sys.argv[1]])
print("seconds", time.perf_counter() - start)
"""


@dataclass(frozen=True, slots=True)
class Weightlens:
    """weightlens, run by the Python of an environment of its own."""

    python: Path

    def command(self, path: Path) -> list[str]:
        return [str(self.python), "-c", _WEIGHTLENS, str(path)]

    def run(self, path: Path) -> str:
        done = subprocess.run(self.command(path), check=True, capture_output=True, text=True)
        return done.stdout

    def seconds(self, path: Path) -> float:
        """Return the time that it takes, its start excluded."""
        return float(self.run(path).split()[-1])

    def verdict(self, path: Path) -> str:
        text = " ".join(self.run(path).split())
        if "Analysis aborted" in text:
            return "not analysed"
        return "found" if "error-level finding" in text else "nothing"


def torchmend_command(path: Path) -> list[str]:
    return [sys.executable, "-m", "torchmend", "diagnose", str(path)]


def torchmend_verdict(path: Path) -> str:
    done = subprocess.run(torchmend_command(path), check=False, capture_output=True, text=True)
    return {0: "nothing", 1: "found"}.get(done.returncode, "not analysed")


def aminmax_command(path: Path) -> list[str]:
    return [sys.executable, str(HERE / "aminmax.py"), str(path)]


def aminmax_verdict(path: Path) -> str:
    done = subprocess.run(aminmax_command(path), check=False, capture_output=True, text=True)
    if done.returncode:
        return "not analysed"
    return "nothing" if done.stdout.strip() == "finite" else "found"


def anonymous_memory(command: list[str]) -> float:
    """Return the most anonymous memory, in MB, that a program had at any time (sampled)."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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
