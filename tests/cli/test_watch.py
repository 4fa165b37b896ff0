"""`torchmend watch`: one line a checkpoint, exit codes as diagnose, and a clean end."""

import json
import os
import signal
import subprocess
import sys

import pytest

import checkpoints
from checkpoints import torchmend

FRESH = checkpoints.training_checkpoint


@pytest.fixture
def run(tmp_path):
    """Give a run's folder: an older checkpoint that is healthy, and a newer one that is damaged."""
    checkpoints.save(FRESH(), tmp_path / "iter_1000.pth", age=300)
    checkpoints.save(checkpoints.infinite_mean(FRESH()), tmp_path / "iter_2000.pth", age=200)
    return tmp_path


def test_looking_once_tells_each_checkpoint_in_a_line_and_exits_1_if_one_is_damaged(run):
    outcome = torchmend("watch", run, "--once")
    first, second = outcome.stdout.splitlines()
    assert outcome.rc == 1
    assert first.startswith(f"{run / 'iter_2000.pth'}: FIXABLE (")
    assert first.endswith(f"TM101 model_state_dict.{checkpoints.MEAN}")
    assert second.startswith(f"{run / 'iter_1000.pth'}: HEALTHY (")
    assert f"kept as {run / '.torchmend' / 'healthy'}" in second


def test_looking_once_exits_0_where_all_is_well(run):
    (run / "iter_2000.pth").unlink()
    assert torchmend("watch", run, "--once").rc == 0


def test_looking_once_exits_2_if_a_file_cannot_be_read(run):
    (run / "iter_3000.pth").write_bytes(b"PK\x03\x04 and no more")
    checkpoints.made_at(run / "iter_3000.pth", 100)
    assert torchmend("watch", run, "--once").rc == 2


def test_looking_once_exits_1_if_what_is_healthy_cannot_be_kept(run):
    (run / "iter_2000.pth").unlink()
    (run / ".torchmend").write_text("in the way")
    outcome = torchmend("watch", run, "--once")
    assert outcome.rc == 1
    assert f"{run / 'iter_1000.pth'} could not be kept or moved" in outcome.stderr


def test_json_gives_an_object_a_line(run):
    outcome = torchmend("watch", run, "--once", "--format", "json", "--quarantine")
    damaged, healthy = map(json.loads, outcome.stdout.splitlines())
    assert (damaged["verdict"], healthy["verdict"]) == ("fixable", "healthy")
    assert damaged["quarantined"] == str(run / ".torchmend" / "quarantine" / "iter_2000.1.pth")
    assert healthy["pinned"].startswith(str(run / ".torchmend" / "healthy" / "iter_1000."))
    assert not (run / "iter_2000.pth").exists()


def test_a_fresh_file_is_waited_for(run):
    os.utime(run / "iter_1000.pth")
    assert "iter_1000.pth" in torchmend("watch", run, "--once", "--settle", "0.05").stdout


@pytest.mark.parametrize("kind", ["empty", "missing", "file"])
def test_what_cannot_be_watched_once_exits_2(tmp_path, kind):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    outcome = torchmend("watch", tmp_path / kind, "--once")
    assert (outcome.rc, outcome.stdout) == (2, "")
    assert kind in outcome.stderr


def test_without_the_library_it_says_what_to_install_and_once_still_works(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    outcome = torchmend("watch", run)
    assert outcome.rc == 2
    assert "pip install 'torchmend[watch]'" in outcome.stderr
    assert not (run / ".torchmend").exists()
    assert torchmend("watch", run, "--once").rc == 1


PROGRAM = """
import sys
sys.modules["torch"] = None
from torchmend.cli.main import run
run()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("options", [(), ("--poll",)])
def test_it_tells_of_what_comes_until_a_signal_ends_it(run, number, options):
    (run / "iter_2000.pth").unlink()
    command = [sys.executable, "-u", "-c", PROGRAM, "watch", str(run), "--settle", "0.1", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert "iter_1000.pth: HEALTHY" in process.stdout.readline()
            checkpoints.save(checkpoints.nan_weight(FRESH()), run / "iter_3000.pth", age=0)
            assert "iter_3000.pth: NEEDS DONOR" in process.stdout.readline()
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, stdout) == (1, "")
    assert stderr == f"Watching {run}. Ctrl-C ends it.\n"
