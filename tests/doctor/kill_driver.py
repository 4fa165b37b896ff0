"""Kill a repair at evenly spaced lines of what writes files, and look after each kill at what is left.

Runs in a process of its own, without torch, so that a fork per point is cheap. Prints a report as JSON.

    python kill_driver.py MODE SOURCE FOLDER POINTS
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from torchmend import doctor, keeping
from torchmend.doctor.fixing import FixOptions, fix_file
from torchmend.doctor.siblings import record_of
from torchmend.doctor.undoing import unfix_file

WATCHED = tuple(str(Path(package.__file__).parent) for package in (doctor, keeping))
OLD = b"an older output"


class Stage:
    """One repair in a folder of its own, and what must be true of the folder at every moment."""

    def __init__(self, mode: str, source: bytes, folder: Path) -> None:
        self.mode, self.source, self.folder = mode, source, folder
        self.path = folder / "run.pth"
        self.output = self.path if self.mode.startswith("in-place") else folder / "run_FIXED.pth"

    def prepare(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.path.write_bytes(self.source)
        if self.mode == "force":
            self.output.write_bytes(OLD)
            record_of(self.output).write_text("{}")
        if self.mode == "unfix":
            fix_file(self.path, FixOptions(in_place=True))

    def run(self) -> None:
        if self.mode == "unfix":
            unfix_file(self.path, in_place=True)
        else:
            fix_file(self.path, FixOptions(in_place=self.output == self.path, force=self.mode == "force"))

    def wrong(self, repaired: bytes) -> str:
        """Say what is wrong with the folder after a kill; empty when all is well."""
        visible = {each.name: each.read_bytes() for each in self.folder.iterdir() if not each.name.startswith(".")}
        if self.mode == "unfix":
            return "" if visible["run.pth"] in (self.source, repaired) else "the file is neither old nor new"
        if self.source not in [data for name, data in visible.items() if name.startswith("run.pth")]:
            return "the source is gone"
        for name in ("run.pth.bak", "run.pth.bak1"):
            if visible.get(name, self.source) != self.source:
                return f"{name} is not the source"
        output = visible.get(self.output.name)
        before = {"force": OLD, "plain": None}.get(self.mode, self.source)
        if output not in (before, repaired):
            return "the output is half-written"
        record = visible.get(record_of(self.output).name)
        if record is not None:
            json.loads(record)
        if output == repaired and unfix_file(self.output, output=self.folder / "undone").output.read_bytes() != (
            self.source
        ):
            return "the repair cannot be undone"
        return ""


def in_child(job: Callable[[], None]) -> int:
    """Run a job in a fork, and return how it ended."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        job()
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
        os._exit(1)
    os._exit(0)


def traced(stage: Stage, on_line: Callable[[], None]) -> None:
    """Carry out the repair, and call back before each line of the doctor from where files are made."""
    making = False

    def local(_frame: FrameType, event: str, _arg: object) -> object:
        if event == "line":
            on_line()
        return local

    def enter(frame: FrameType, _event: str, _arg: object) -> object:
        nonlocal making
        making = making or frame.f_code.co_name in ("make_drafts", "unfix_file")
        return local if making and frame.f_code.co_filename.startswith(WATCHED) else None

    sys.settrace(enter)
    try:
        stage.run()
    finally:
        sys.settrace(None)


def count_lines(stage: Stage) -> int:
    """Return how many lines of the doctor a repair runs."""
    lines = 0
    told = stage.folder.with_name("count")

    def count() -> None:
        nonlocal lines
        lines += 1

    def job() -> None:
        traced(stage, count)
        told.write_text(str(lines))

    stage.prepare()
    if in_child(job):
        raise SystemExit("the repair failed even without a kill")
    return int(told.read_text())


def kill_at(stage: Stage, wanted: int) -> bool:
    """Carry out the repair, and kill it before its line of that number; return whether it was."""
    lines = 0

    def count() -> None:
        nonlocal lines
        lines += 1
        if lines == wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    stage.prepare()
    return os.waitstatus_to_exitcode(in_child(lambda: traced(stage, count))) == -signal.SIGKILL


def no_links(*_: object) -> None:
    raise PermissionError("this file system has no hard links")


def main() -> None:
    mode, source, folder, points = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    os.fsync = lambda _: None  # a kill loses nothing that was written; only a power cut would
    if mode == "in-place-without-links":
        os.link = no_links
    folder.mkdir()
    stage = Stage(mode, source.read_bytes(), folder / "stage")
    stage.prepare()
    stage.run()  # whatever is loaded late is loaded once, here, and not in every fork
    lines = count_lines(stage)
    changed = stage.output if mode != "unfix" else stage.path
    repaired = changed.read_bytes()
    if mode == "unfix":
        stage.prepare()
        repaired = stage.path.read_bytes()
    killed, with_output, wrong = 0, 0, []
    done = stage.source if mode == "unfix" else repaired
    for point in range(points):
        at = 1 + point * (lines - 1) // (points - 1)
        killed += kill_at(stage, at)
        with_output += changed.exists() and changed.read_bytes() == done
        if problem := stage.wrong(repaired):
            wrong.append(f"line {at} of {lines}: {problem}")
    report = {"killed": killed, "with_output": with_output, "without_output": points - with_output, "wrong": wrong}
    print(json.dumps(report))  # noqa: T201 - this is what the test reads


if __name__ == "__main__":
    main()
