"""The process that meets hostile files: it diagnoses and repairs them under limits, and watches itself.

Reads one JSON object a line (`case`: the folder with the files, `target`: the file or folder in it, `out`: an empty
folder), and answers each with one (`problem`: empty, or what must not have happened).
"""

import codecs
import contextlib
import json
import os
import resource
import sys
import time
import traceback
import unicodedata  # noqa: F401 - the parser of literals imports it when it meets a name
import warnings
import zlib
from pathlib import Path

from torchmend.doctor.converting import ConvertOptions, convert_file
from torchmend.doctor.diagnosing import diagnose_file
from torchmend.doctor.fixing import FixOptions, fix_file
from torchmend.doctor.salvaging import SalvageOptions, salvage_file
from torchmend.doctor.siblings import record_of, sidecar_of
from torchmend.facts.errors import RepairError, SourceChangedError, TorchmendError
from torchmend.facts.findings import Diagnosis
from torchmend.reports.machine import diagnosis_data
from torchmend.reports.markdown import markdown_report
from torchmend.reports.sarif import sarif_log
from torchmend.reports.text import diagnosis_text

MOST_SECONDS = 2.0
"""Of processor time, since the machine may be busy; the other side watches the clock on the wall."""

MOST_MEMORY = 300 << 20

INSTALLED = tuple(os.path.realpath(folder) for folder in sys.path)
"""Where a report looks up the version of torchmend."""

MACHINE = ("/proc/loadavg", "/proc/self/cgroup", "/sys/fs/cgroup")
"""Where a scan sees how busy the machine is, to choose its threads."""

_NEVER = ("import", "exec", "compile", "marshal.", "pickle.", "code.", "subprocess.", "socket.", "ctypes.", "pty.",
          "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "os.kill", "os.putenv",
          "builtins.input", "webbrowser.", "urllib.", "http.", "ftplib.", "smtplib.", "sqlite3.",
          "winreg.")  # fmt: skip
_CHANGES = {"os.rename": 2, "os.remove": 1, "os.mkdir": 1, "os.rmdir": 1, "os.link": 2, "os.symlink": 2, "os.chmod": 1,
            "os.chown": 1, "os.truncate": 1, "os.utime": 1, "os.setxattr": 1, "os.removexattr": 1}  # fmt: skip
_LOOKS = ("os.listdir", "os.scandir", "os.walk", "glob.glob")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """An audit hook that notes, and stops, what a reader of files has no business doing."""

    def __init__(self) -> None:
        self.readable: tuple[str, ...] = ()
        self.writable: tuple[str, ...] = ()
        self.seen: list[str] = []
        self.armed = False
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if not self.armed:
            return
        try:
            self.armed = False
            wrong = self._wrong(event, args)
        finally:
            self.armed = True
        if wrong:
            self.seen.append(wrong)
            raise PermissionError(wrong)

    def _wrong(self, event: str, args: tuple[object, ...]) -> str:
        if event == "compile" and args[1] == "<unknown>":  # `ast.parse` asks for a tree; running it would be `exec`
            return ""
        if event.startswith(_NEVER):
            return f"{event} {args!r:.200}"
        if event == "open":
            path, mode, flags = args
            writes = bool(int(flags) & _WRITES) if isinstance(flags, int) else any(c in str(mode) for c in "wax+")
            allowed = self.writable if writes else (*self.readable, *self.writable)
            return "" if _is_below(path, allowed) else f"open {path!r} {'to write' if writes else 'to read'}"
        if event in _CHANGES:
            outside = [path for path in args[: _CHANGES[event]] if not _is_below(path, self.writable)]
            return f"{event} {outside!r}" if outside else ""
        if event in _LOOKS and not _is_below(args[0], (*self.readable, *self.writable)):
            return f"{event} {args[0]!r}"
        return ""


def _is_below(path: object, folders: tuple[str, ...]) -> bool:
    if isinstance(path, int):  # a descriptor that was opened before
        return True
    real = os.path.realpath(os.fsdecode(path))  # type: ignore[arg-type]
    return any(real == folder or real.startswith(folder + os.sep) for folder in folders)


def render(diagnosis: Diagnosis) -> None:
    """Write every report: a name in a file must not break one."""
    diagnosis_text(diagnosis)
    json.dumps(diagnosis_data(diagnosis), allow_nan=False)
    json.dumps(sarif_log([diagnosis]), allow_nan=False)
    markdown_report([diagnosis])


def attempt(case: Path, target: str, out: Path) -> dict[str, object]:
    """Diagnose and repair one case; say how it went."""
    case = case / "files"  # a neighbour of a folder may be looked for where the folder lies
    before = {path: path.read_bytes() for path in sorted(case.rglob("*")) if path.is_file()}
    variety = zlib.crc32(b"".join(before.values()))
    options = FixOptions(
        output=out / f"fixed{Path(target).suffix}",
        allow_partial=bool(variety & 1),
        metadata=bool(variety & 2),
        reset_optimizer=not variety & 12,
    )
    answer: dict[str, object] = {"format": "", "findings": 0, "written": False}
    started = time.process_time()
    with contextlib.suppress(TorchmendError):
        diagnosis = diagnose_file(case / target, verify_checksums=True)
        answer |= {"format": diagnosis.format, "findings": len(diagnosis.findings)}
        answer["seconds"] = _within(started, "diagnose_file")
        started = time.process_time()
        render(diagnosis)
        _within(started, "the reports")
    started = time.process_time()
    try:
        answer["written"] = fix_file(case / target, options).output is not None
    except (RepairError, SourceChangedError):
        raise
    except TorchmendError as error:
        answer["refused"] = str(error)
    _within(started, "fix_file")
    output = options.output
    assert output is not None
    allowed = {output, record_of(output), sidecar_of(output)} if answer["written"] else set()
    left = set(out.rglob("*"))
    if output.is_dir():  # a folder's output is a folder; what is in it are files of the same names, and the records
        left = {path for path in left if path.parent == out and path not in (record_of(output), sidecar_of(output))}
        allowed = {output} if answer["written"] else set()
    if left != allowed:
        raise AssertionError(f"files left in the output folder: {sorted(map(str, left))}")
    if variety & 16:
        _rescue(case / target, out)
    if before != {path: path.read_bytes() for path in sorted(case.rglob("*")) if path.is_file()}:
        raise AssertionError("the source changed")
    return answer


def _rescue(path: Path, out: Path) -> None:
    """Write the tensors of a case anew, by both commands that do."""
    written = {out / "salvaged.safetensors", out / "converted.pth"}
    for write in (
        lambda: salvage_file(path, SalvageOptions(output=out / "salvaged.safetensors")),
        lambda: convert_file(path, out / "converted.pth", ConvertOptions(allow_partial=True)),
    ):
        others, started = {*out.rglob("*")} - written, time.process_time()
        try:
            write()
        except (RepairError, SourceChangedError):
            raise
        except TorchmendError:
            pass
        _within(started, "salvage_file or convert_file")
        if {*out.rglob("*")} - written != others:
            raise AssertionError(f"files left in the output folder: {sorted(map(str, out.rglob('*')))}")


def _within(started: float, what: str) -> float:
    seconds = time.process_time() - started
    if seconds > MOST_SECONDS:
        raise AssertionError(f"{what} took {seconds:.1f} s of processor time")
    return seconds


def peak() -> int:
    """Return the most memory that this process ever had resident, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says on Linux includes the process that started this one
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def serve(watch: Watch) -> None:
    """Answer until there are no more questions. Until the first that says `armed`, imports are what they are."""
    for line in sys.stdin:
        question = json.loads(line)
        case, out = Path(question["case"]), Path(question["out"])
        watch.readable = (os.path.realpath(case), *INSTALLED, *map(os.path.realpath, MACHINE))
        watch.writable = (os.path.realpath(out), os.environ["TMPDIR"])
        watch.seen.clear()
        watch.armed = question["armed"]
        problem, answer = "", {}
        try:
            answer = attempt(case, question["target"], out)
        except MemoryError:
            problem = "MemoryError"
        except Exception:  # whatever it is, it is what this looks for
            watch.armed = False
            problem = traceback.format_exc(limit=-8)
        watch.armed = False
        if watch.seen:
            problem = f"{'; '.join(watch.seen)}\n{problem}"
        if not problem and peak() > MOST_MEMORY:
            problem = f"{peak() >> 20} MiB of memory"
        print(json.dumps({**answer, "problem": problem, "peak": peak()}), flush=True)  # noqa: T201


if __name__ == "__main__":
    for codec in ("ascii", "latin-1", "raw-unicode-escape", "unicode-escape", "utf-8"):
        codecs.lookup(codec)  # a codec of the standard library is imported when it is first used
    warnings.simplefilter("error")
    watching = Watch()
    hard = 8 * MOST_MEMORY  # of addresses, so that a bomb hurts nobody else; threads take many and use few
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    serve(watching)
