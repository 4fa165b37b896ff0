"""Nothing is lost whenever a repair is killed, and nothing half-written stays when the disk is full."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

DRIVER = Path(__file__).with_name("kill_driver.py")
POINTS = {"plain": 200, "force": 100, "in-place": 100, "in-place-without-links": 50, "unfix": 50}
"""At how many of the lines that run once the first file is made each kind of repair is killed."""


@pytest.fixture
def broken(tmp_path) -> Path:
    path = tmp_path / "run.pth"
    mean = torch.tensor([0.1, float("inf"), 0.3, 0.2])
    torch.save({"model": {"b.running_mean": mean, "b.running_var": torch.ones(4), "w.weight": torch.ones(999)}}, path)
    return path


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("mode", POINTS)
def test_a_kill_at_any_of_many_points_loses_nothing(broken, tmp_path, mode):
    command = [sys.executable, str(DRIVER), mode, str(broken), str(tmp_path / "points"), str(POINTS[mode])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["wrong"] == []
    assert report["killed"] == POINTS[mode]
    assert report["with_output"] > 0
    assert report["without_output"] > 0


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.argv = ["torchmend", *sys.argv[2:]]
from torchmend.cli.main import run
run()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("limit", [0, 100, 3000])
@pytest.mark.parametrize("options", [(), ("--in-place",)])
def test_a_file_that_cannot_grow_leaves_no_trace_and_exits_2(broken, limit, options):
    before = broken.read_bytes()
    command = [sys.executable, "-c", LIMITED, str(limit), "fix", str(broken), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "File too large" in done.stderr
    assert "the source is untouched" in done.stderr
    assert [each.name for each in broken.parent.iterdir()] == ["run.pth"]
    assert broken.read_bytes() == before
