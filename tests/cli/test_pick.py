"""`torchmend pick`: the newest healthy checkpoint, for scripts."""

import pytest

import checkpoints
from checkpoints import torchmend


@pytest.fixture
def run(tmp_path):
    """Give a run's folder: two healthy checkpoints, and newer ones that are damaged and truncated."""
    fresh = checkpoints.training_checkpoint
    checkpoints.save(fresh(), tmp_path / "iter_1000.pth", age=400)
    healthy = checkpoints.save(fresh(), tmp_path / "iter_2000.pth", age=300)
    checkpoints.save(checkpoints.infinite_mean(fresh()), tmp_path / "iter_3000.pth", age=200)
    (tmp_path / "iter_4000.pth").write_bytes(healthy.read_bytes()[:100_000])
    checkpoints.made_at(tmp_path / "iter_4000.pth", 100)
    return tmp_path


def test_the_newest_healthy_checkpoint_is_all_that_standard_output_gets(run):
    outcome = torchmend("pick", run)
    assert (outcome.rc, outcome.stdout) == (0, f"{run / 'iter_2000.pth'}\n")


def test_standard_error_says_why_newer_ones_were_passed_over_newest_first(run):
    first, second = torchmend("pick", run).stderr.splitlines()
    assert first.startswith(f"passed over {run / 'iter_4000.pth'}: TM902 ")
    assert second.startswith(f"passed over {run / 'iter_3000.pth'}: TM101 model_state_dict.{checkpoints.MEAN}: ")


def test_age_decides_and_not_the_name(run):
    checkpoints.made_at(run / "iter_1000.pth", 0)
    outcome = torchmend("pick", run)
    assert (outcome.stdout, outcome.stderr) == (f"{run / 'iter_1000.pth'}\n", "")


def test_of_two_of_one_age_the_first_by_name_is_picked(run):
    for name in ("iter_1000.pth", "iter_2000.pth"):
        checkpoints.made_at(run / name, 0)
    assert torchmend("pick", run).stdout == f"{run / 'iter_1000.pth'}\n"


def test_folders_below_are_searched(run):
    (run / "best").mkdir()
    checkpoints.save(checkpoints.training_checkpoint(), run / "best" / "model.pth", age=0)
    assert torchmend("pick", run).stdout == f"{run / 'best' / 'model.pth'}\n"


def test_without_a_healthy_checkpoint_it_exits_1_with_nothing_on_standard_output(run):
    for name in ("iter_1000.pth", "iter_2000.pth"):
        (run / name).unlink()
    outcome = torchmend("pick", run)
    assert (outcome.rc, outcome.stdout) == (1, "")
    assert outcome.stderr.endswith(f"torchmend: no healthy checkpoint in {run}.\n")


def test_a_checkpoint_without_tensors_is_passed_over(run):
    checkpoints.save({"iteration": 1}, run / "empty.pth", age=0)
    outcome = torchmend("pick", run)
    assert outcome.stdout == f"{run / 'iter_2000.pth'}\n"
    assert f"passed over {run / 'empty.pth'}: it holds no tensors" in outcome.stderr


def test_hidden_files_are_not_candidates(run):
    checkpoints.save(checkpoints.training_checkpoint(), run / ".iter_5000.pth", age=0)
    assert torchmend("pick", run).stdout == f"{run / 'iter_2000.pth'}\n"


@pytest.mark.parametrize("kind", ["file", "missing", "empty folder"])
def test_what_cannot_be_searched_exits_2_with_nothing_on_standard_output(run, kind):
    (run / "nothing").mkdir()
    target = {"file": "iter_1000.pth", "missing": "elsewhere", "empty folder": "nothing"}[kind]
    outcome = torchmend("pick", run / target)
    assert (outcome.rc, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("torchmend: ")
    assert target in outcome.stderr
