"""`torchmend compare`: what it prints for whom, and what it returns."""

import json

import pytest

import checkpoints
from checkpoints import torchmend


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Stand in a folder with a healthy, a damaged, and a truncated checkpoint."""
    healthy = checkpoints.save(checkpoints.training_checkpoint(), tmp_path / "iter_1.pth")
    checkpoints.save(checkpoints.infinite_mean(checkpoints.training_checkpoint()), tmp_path / "iter_2.pth")
    (tmp_path / "cut.bin").write_bytes(healthy.read_bytes()[:200_000])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_nothing_broken_exits_0(folder):
    outcome = torchmend("compare", "iter_1.pth", "iter_1.pth")
    assert (outcome.rc, outcome.stderr) == (0, "")
    assert outcome.stdout.endswith("Every tensor is bit for bit the same.\n")


def test_something_broken_exits_1_and_comes_first(folder):
    outcome = torchmend("compare", "iter_1.pth", "iter_2.pth")
    assert outcome.rc == 1
    assert outcome.stdout.splitlines()[3] == "  BROKE   1 tensor"


def test_healing_exits_0(folder):
    outcome = torchmend("compare", "iter_2.pth", "iter_1.pth")
    assert outcome.rc == 0
    assert "HEALED   1 tensor" in outcome.stdout


def test_an_unreadable_file_exits_2_in_the_words_of_diagnose(folder):
    outcome = torchmend("compare", "iter_1.pth", "cut.bin")
    assert outcome.rc == 2
    assert "cut.bin: UNCHECKED" in outcome.stdout
    assert "ERROR TM902 truncated" in outcome.stdout


def test_json_has_what_broke(folder):
    outcome = torchmend("compare", "iter_1.pth", "iter_2.pth", "--format", "json")
    (data,) = json.loads(outcome.stdout)["results"]
    assert (data["broke"], data["counts"]["broke"], data["tensors"][0]["name"]) == (True, 1, checkpoints.MEAN)


def test_a_filter_does_not_hide_that_something_broke(folder):
    outcome = torchmend("compare", "iter_1.pth", "iter_2.pth", "--filter", "head")
    assert outcome.rc == 0
    assert "1 tensor broke that --filter leaves out" in outcome.stdout


def test_history_names_the_interval_and_exits_2_with_an_unreadable_file(folder):
    outcome = torchmend("compare", "--history", ".")
    assert outcome.rc == 2
    assert "It went wrong between iter_1.pth (healthy) and iter_2.pth: 1 running statistic of" in outcome.stdout


def test_history_of_a_damaged_run_exits_1_and_its_json_has_the_interval(folder):
    (folder / "cut.bin").unlink()
    outcome = torchmend("compare", "--history", ".", "--format", "json")
    (data,) = json.loads(outcome.stdout)["results"]
    assert (outcome.rc, data["last_healthy"], data["first_damaged"]) == (1, "iter_1.pth", "iter_2.pth")


def test_history_of_a_healthy_run_exits_0(folder):
    (folder / "cut.bin").unlink()
    (folder / "iter_2.pth").unlink()
    outcome = torchmend("compare", "--history", ".")
    assert outcome.rc == 0
    assert "Every checkpoint is healthy." in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "0 were given"),
        (("iter_1.pth",), "1 was given"),
        (("iter_1.pth", "iter_1.pth", "iter_1.pth"), "3 were given"),
        (("iter_1.pth", "--history", "."), "--history takes one folder"),
    ],
)
def test_wrong_combinations_exit_2_and_say_what_is_right(folder, arguments, said):
    outcome = torchmend("compare", *arguments)
    assert (outcome.rc, outcome.stdout) == (2, "")
    assert said in outcome.stderr
