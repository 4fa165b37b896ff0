"""The recipes of docs/ci.md: every command in them runs as written, and the shell gate does what it says."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import checkpoints
from checkpoints import torchmend
from torchmend.cli.common import FailOn, ReportFormat

PAGE = (Path(__file__).parents[2] / "docs" / "ci.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(?:sh|yaml)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"torchmend (?:diagnose|pick)\b[^\n|;)#>]*")
COMMANDS = sorted({found.group().strip() for block in BLOCKS for found in COMMAND.finditer(block)})
GATE = next(block for block in BLOCKS if block.startswith("set -eu"))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Stand in a folder that has everything that the page names, all of it healthy."""
    checkpoint = checkpoints.save(checkpoints.training_checkpoint(), tmp_path / "model.pth")
    for name in ("new.pth", "release.pth", "runs/7/a.pth", "checkpoints/a.pth"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(checkpoint, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_has_commands():
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_runs_and_finds_a_healthy_project_healthy(project, command):
    outcome = torchmend(*shlex.split(command)[1:])
    assert (outcome.rc, outcome.stderr) == (0, "")


@pytest.mark.parametrize("word", [*FailOn, *ReportFormat])
def test_the_page_names_every_choice(word):
    assert f"`{word.value}`" in PAGE


@pytest.fixture
def on_path(project, monkeypatch):
    """Put a `torchmend` on the path that runs this very package."""
    program = project / "bin" / "torchmend"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m torchmend "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return project


def gate(folder):
    return subprocess.run(["sh", "-c", GATE], cwd=folder, capture_output=True, text=True, check=False).returncode


@pytest.mark.skipif(shutil.which("sh") is None, reason="a recipe for POSIX shells")
def test_the_gate_lets_a_healthy_checkpoint_through(on_path):
    assert gate(on_path) == 0
    assert (on_path / "latest.pth").exists()
    assert not (on_path / "new.pth").exists()


@pytest.mark.skipif(shutil.which("sh") is None, reason="a recipe for POSIX shells")
def test_the_gate_keeps_a_damaged_checkpoint_from_replacing_the_last_good_one(on_path):
    checkpoints.save(checkpoints.infinite_mean(checkpoints.training_checkpoint()), on_path / "new.pth")
    (on_path / "latest.pth").write_bytes(b"the last good one")
    assert gate(on_path) == 1
    assert (on_path / "latest.pth").read_bytes() == b"the last good one"
    assert len(list(on_path.glob("rejected-*.pth"))) == 1
