"""Kill a save at evenly spaced lines of what writes files, and look after each kill at what is left.

    python kill_driver.py MODE FOLDER POINTS

Prints a report as JSON.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch

import torchmend
from torchmend import keeping, live
from torchmend.keeping import versions

WATCHED = (str(Path(keeping.__file__).parent), str(Path(live.__file__).parent / "saving.py"))


def state(value):
    return {"model": {"fc.weight": torch.full((64, 64), float(value))}, "iteration": 7}


def save(mode, folder, value):
    name = "ckpt_{step}.pt" if mode == "pattern" else "last.pt"
    step = 7 if mode == "pattern" else None
    torchmend.save(state(value), folder / name, keep=2, step=step, metric=abs(value), mode="max")


def prepare(mode, folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "foreign.pt").write_text("foreign")
    for value in (1, 2, 3):
        save(mode, folder, value)


def whole(folder):
    """Load every checkpoint that a search for such would find; a half one raises an error."""
    return {
        each.name: float(torch.load(each, weights_only=True)["model"]["fc.weight"][0, 0])
        for each in folder.glob("*.pt")
        if each.name != "foreign.pt"
    }


def wrong(mode, folder):
    """Say what is wrong after a kill, and after the next save; empty when all is well."""
    path = "ckpt_7.pt" if mode == "pattern" else "last.pt"
    best = "ckpt_best.pt" if mode == "pattern" else "last_best.pt"
    found = whole(folder)
    if found.get(path) not in (3, 4) or 3 not in found.values():
        return f"a version is lost: {found}"
    if found.get(best) not in (3, 4):
        return f"the best is lost: {found}"
    save(mode, folder, 0.5)  # a worse one
    after = whole(folder)
    if after[path] != 0.5 or after[best] != found[best]:
        return f"the save after the kill went wrong: {found} -> {after}"
    if sorted(after) != sorted({path, best, *(name for name in after if name[:-3].rpartition(".")[2].isdecimal())}):
        return f"unknown files: {after}"
    if len(after) != 3:
        return f"versions pile up: {after}"
    if (folder / "foreign.pt").read_text() != "foreign":
        return "a foreign file was touched"
    return ""


def traced(mode, folder, on_line):
    def local(_frame, event, _arg):
        if event == "line":
            on_line()
        return local

    def enter(frame, _event, _arg):
        return local if frame.f_code.co_filename.startswith(WATCHED) else None

    sys.settrace(enter)
    try:
        save(mode, folder, float("nan") if mode == "corrupted" else 4)
    finally:
        sys.settrace(None)


def in_child(job):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        job()
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
        os._exit(1)
    os._exit(0)


def main():
    mode, folder, points = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    os.fsync = lambda _: None  # a kill loses nothing that was written; only a power cut would
    if mode == "without links":
        versions.os.link = no_links
    lines = 0

    def count():
        nonlocal lines
        lines += 1

    prepare(mode, folder)
    traced(mode, folder, count)
    total = lines
    killed, report = 0, []
    for point in range(points):
        at = 1 + point * (total - 1) // (points - 1)
        lines = 0

        def kill(at=at):
            nonlocal lines
            lines += 1
            if lines == at:
                os.kill(os.getpid(), signal.SIGKILL)

        prepare(mode, folder)
        killed += in_child(lambda kill=kill: traced(mode, folder, kill)) == -signal.SIGKILL
        if problem := wrong(mode, folder):
            report.append(f"line {at} of {total}: {problem}")
    print(json.dumps({"killed": killed, "lines": total, "wrong": report}))  # noqa: T201 - this is what the test reads


def no_links(*_):
    raise PermissionError("this file system has no hard links")


if __name__ == "__main__":
    main()
