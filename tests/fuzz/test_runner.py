"""The process that meets hostile files notices what must not happen: else its silence would mean nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.sandbox import SOURCES

SETTING = """
import os, sys
sys.path.insert(0, {here!r})
import runner
watch = runner.Watch()
watch.readable, watch.writable = ({case!r},), ({out!r},)
watch.armed = True
try:
    {attempt}
except PermissionError:
    pass
watch.armed = False
print(watch.seen)
"""


def seen(attempt: str, tmp_path: Path) -> str:
    """Return what the watch notes while something is attempted, as it prints its list."""
    for name in ("case", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_bytes(b"a")
    case, out = str((tmp_path / "case").resolve()), str((tmp_path / "out").resolve())
    here = str(Path(__file__).parent)
    code = SETTING.format(here=here, case=case, out=out, attempt=attempt.format(case=case, out=out, other=tmp_path))
    environment = {"PYTHONPATH": str(SOURCES), "TMPDIR": out}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return ran.stdout.strip()


@pytest.mark.parametrize(
    "attempt",
    [
        "import antigravity",
        "os.system('true')",
        "os.execv('/bin/true', ['true'])",
        "eval('1 + 1')",
        "exec('pass')",
        "__import__('pickle').loads(b'cos\\ngetcwd\\n.')",
        "__import__('subprocess').Popen(['true'])",
        "__import__('socket').socket()",
        "open('{other}/written', 'wb')",
        "open('{case}/a', 'r+b')",
        "open('{out}/../escaped', 'w')",
        "open('/etc/hostname')",
        "os.listdir('/')",
        "os.remove('{case}/a')",
        "os.rename('{out}/a', '{case}/b')",
        "os.symlink('/etc', '{case}/link')",
        "os.mkdir('{other}/made')",
    ],
)
def test_what_a_reader_has_no_business_doing_is_noted(attempt: str, tmp_path: Path) -> None:
    assert seen(attempt, tmp_path) != "[]"


@pytest.mark.parametrize(
    "attempt",
    [
        "open('{case}/a').read()",
        "open('{out}/new', 'w').write('x')",
        "os.replace('{out}/a', '{out}/b')",
        "os.listdir('{case}')",
    ],
)
def test_reading_the_case_and_writing_the_output_is_allowed(attempt: str, tmp_path: Path) -> None:
    assert seen(attempt, tmp_path) == "[]"
