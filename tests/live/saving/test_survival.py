"""Nothing is lost whenever a save is killed, and nothing half-written stays when the disk is full."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import torchmend
from live.saving.states import healthy, value_in, visible

DRIVER = Path(__file__).with_name("kill_driver.py")
POINTS = {"same name": 80, "pattern": 40, "without links": 40, "corrupted": 30}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("mode", POINTS)
def test_a_kill_at_any_of_many_points_loses_nothing(tmp_path, mode):
    command = [sys.executable, "-W", "ignore", str(DRIVER), mode, str(tmp_path / "points"), str(POINTS[mode])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["wrong"] == []
    assert report["killed"] == POINTS[mode]


LIMITED = """
import resource, signal, sys, torch, torchmend
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
try:
    torchmend.save({"model": {"fc.weight": torch.ones(100, 100)}}, sys.argv[2], metric=5.0)
except OSError as error:
    print(error.strerror, error.filename)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("limit", [0, 100, 3000, 41_000])
def test_a_disk_that_is_full_is_an_os_error_and_loses_nothing(tmp_path, limit):
    torchmend.save(healthy(3), tmp_path / "last.pt")
    command = [sys.executable, "-c", LIMITED, str(limit), str(tmp_path / "last.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"File too large {tmp_path / 'last.pt'}\n"
    assert value_in(tmp_path / "last.pt") == 3
    assert visible(tmp_path) == ["last.pt"]
