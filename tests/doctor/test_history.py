"""A run's checkpoints in order: how the order is told, and where it went wrong."""

import numpy as np
import pytest
import torch

import checkpoints
from torchmend.doctor.history import find_jumps, number_in_name, read_history
from torchmend.facts.errors import UserError


def at(step, change=lambda checkpoint: checkpoint):
    return change({**checkpoints.training_checkpoint(), "iteration": step})


@pytest.fixture
def run(tmp_path):
    """Make a run that breaks at its third checkpoint and spreads by its fifth; the fourth is cut off."""
    for step in (1000, 2000):
        checkpoints.save(at(step), tmp_path / f"iter_{step}.pth")
    broken = checkpoints.save(at(3000, checkpoints.nan_channels), tmp_path / "iter_3000.pth")
    (tmp_path / "iter_4000.pth").write_bytes(broken.read_bytes()[:100_000])
    checkpoints.save(checkpoints.nan_weight(at(5000, checkpoints.nan_channels)), tmp_path / "iter_5000.pth")
    return tmp_path


def names(history):
    return [entry.path.name for entry in history.entries]


def test_it_finds_the_last_healthy_and_the_first_damaged(run):
    found = read_history(run)
    assert found.last_healthy.path.name == "iter_2000.pth"
    assert found.first_damaged.path.name == "iter_3000.pth"
    assert found.comparison.broke


def test_an_unreadable_file_is_listed_in_its_place_and_stops_nothing(run):
    found = read_history(run)
    assert names(found) == [f"iter_{step}000.pth" for step in range(1, 6)]
    assert (found.entries[3].checked, found.entries[3].step, found.checked) == (False, 4000, False)


def test_what_spreads_later_is_told_apart_from_what_broke_first(run):
    found = read_history(run)
    assert [finding.ref.name for finding in found.later[-1].newly] == [checkpoints.CONV_WEIGHT]


def test_the_metadata_come_before_the_name(tmp_path):
    checkpoints.save(at(20), tmp_path / "a_1.pth")
    checkpoints.save(at(10), tmp_path / "b_2.pth")
    found = read_history(tmp_path)
    assert (names(found), found.ordered_by) == (["b_2.pth", "a_1.pth"], "iteration in the metadata")


def test_without_metadata_the_number_in_the_name_counts(tmp_path):
    for step in (9, 10):
        checkpoints.save({"w": torch.ones(2)}, tmp_path / f"step_{step}.pth")
    found = read_history(tmp_path)
    assert (names(found), found.ordered_by) == (["step_9.pth", "step_10.pth"], "the number in the file name")


def test_without_any_number_the_time_counts(tmp_path):
    checkpoints.save({"w": torch.ones(2)}, tmp_path / "a.pth", age=1)
    checkpoints.save({"w": torch.ones(2)}, tmp_path / "b.pth", age=2)
    found = read_history(tmp_path)
    assert (names(found), found.ordered_by) == (["b.pth", "a.pth"], "time of last change")


def test_repaired_copies_are_left_out(tmp_path):
    for name in ("a.pth", "a_FIXED.pth"):
        checkpoints.save({"w": torch.ones(2)}, tmp_path / name)
    found = read_history(tmp_path)
    assert (names(found), found.left_out) == (["a.pth"], 1)


def test_a_variance_that_grows_fourfold_is_reported_before_anything_breaks(tmp_path):
    checkpoints.save(at(1), tmp_path / "1.pth")
    grown = at(2)
    checkpoints.tensor(grown, checkpoints.VAR)[7] *= 9
    checkpoints.save(grown, tmp_path / "2.pth")
    (jump,) = read_history(tmp_path).jumps
    assert (jump.layer, jump.channel, jump.channels) == (checkpoints.LAYER, 7, 1)


def test_damaged_and_reshaped_variances_do_not_jump(tmp_path):
    old = {"a.running_var": np.ones(2), "b.running_var": np.ones(2)}
    new = {"a.running_var": np.array([np.inf, 2.0]), "b.running_var": np.full(3, 9.0)}
    assert find_jumps(tmp_path, old, tmp_path, new) == []


@pytest.mark.parametrize(
    ("path", "number"),
    [("iter_41000.pth", 41000), ("epoch=3-step=7.ckpt", 7), ("checkpoint-500/model.bin", 500), ("x/best.pth", None)],
)
def test_the_last_number_of_a_name_counts_else_its_folders(tmp_path, path, number):
    assert number_in_name(type(tmp_path)(path)) == number


def test_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        read_history(tmp_path / "missing")
