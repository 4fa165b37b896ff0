"""Cases of hostile files, and a process of its own to meet them in."""

import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SOURCES = Path(__file__).resolve().parents[2] / "src"

LONGEST_WAIT = 30.0
"""Seconds on the wall after which a case hangs; the machine may be busy with something else."""


@dataclass(frozen=True, slots=True)
class Case:
    """Files in a folder, and the one to diagnose.

    Args:
        files: By their path in the folder.
        target: Which of them, or the name of a folder; empty for the whole folder.
    """

    files: dict[str, bytes]
    target: str

    @property
    def nbytes(self) -> int:
        """How many bytes all files have."""
        return sum(map(len, self.files.values()))


class Sandbox:
    """A process that diagnoses and repairs cases, started anew when one of them broke it."""

    def __init__(self, warm_up: Iterable[Case]) -> None:
        shared = Path("/dev/shm")
        self.root = Path(tempfile.mkdtemp(prefix="torchmend-fuzz-", dir=shared if shared.is_dir() else None))
        self.warm_up = list(warm_up)
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()
        shutil.rmtree(self.root)

    def run(self, case: Case) -> dict[str, Any]:
        """Meet one case; `problem` is empty, or says what must not have happened."""
        if self.process is None:
            self._start()
        answer = self._ask(case, armed=True)
        if answer["problem"]:
            self._stop()
        return answer

    def _start(self) -> None:
        (self.root / "tmp").mkdir(exist_ok=True)
        environment = {
            **os.environ,
            "MALLOC_ARENA_MAX": "2",  # every arena takes 64 MiB of addresses
            "PYTHONPATH": str(SOURCES),
            "TMPDIR": str((self.root / "tmp").resolve()),
        }
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("runner.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        for case in self.warm_up:  # what is imported late is imported now
            answer = self._ask(case, armed=False)
            assert not answer["problem"], answer["problem"]

    def _stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _ask(self, case: Case, *, armed: bool) -> dict[str, Any]:
        folders = {name: self.root / name for name in ("case", "out")}
        for folder in folders.values():
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir()
        for name, data in case.files.items():
            path = folders["case"] / "files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        process = self.process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        question = {**{k: str(v) for k, v in folders.items()}, "target": case.target, "armed": armed}
        process.stdin.write(json.dumps(question).encode() + b"\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            if not ready.select(LONGEST_WAIT):
                return {"problem": f"no answer within {LONGEST_WAIT:.0f} s"}
        line = process.stdout.readline()
        if not line:
            return {"problem": f"the process died with {process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        left = [*(self.root / "tmp").rglob("*")]
        if left and not answer["problem"]:
            answer["problem"] = f"temporary files left: {left}"
        for each in left:
            each.unlink()
        return answer
