"""Repairs in the further formats: their own library loads the result, and what the plan does not name is unchanged."""

import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import checkpoints
import old_files
from differences import changed
from torchmend.doctor.diagnosing import diagnose_file
from torchmend.doctor.fixing import FixOptions, fix_file
from torchmend.doctor.undoing import unfix_file

# Legacy torch streams


@pytest.fixture
def legacy(tmp_path) -> Path:
    path = tmp_path / "run.pth"
    broken = checkpoints.infinite_second_moment(checkpoints.nan_channels(checkpoints.training_checkpoint()))
    torch.save({**broken, "best_loss": float("nan")}, path, _use_new_zipfile_serialization=False)
    return path


def test_a_repaired_legacy_file_is_loaded_by_torch_and_differs_only_where_planned(legacy):
    outcome = fix_file(legacy, FixOptions(metadata=True))
    before, after = (torch.load(path, weights_only=True) for path in (legacy, outcome.output))
    named = {edit.ref.path for edit in outcome.plan.edits} | {edit.scalar.dotted for edit in outcome.plan.scalars}
    assert changed(before, after) == named
    assert {f"model_state_dict.{checkpoints.MEAN}", "best_loss"} <= named
    assert diagnose_file(outcome.output).healthy


def test_a_repair_of_a_legacy_file_changes_the_damaged_elements_and_nothing_else(legacy):
    outcome = fix_file(legacy, FixOptions(metadata=True))
    before, after = (np.frombuffer(path.read_bytes(), dtype=np.uint8) for path in (legacy, outcome.output))
    assert before.size == after.size
    elements = sum(edit.count for edit in outcome.plan.edits)
    assert 0 < np.count_nonzero(before != after) <= 4 * elements + 8 * len(outcome.plan.scalars)


def test_a_repair_of_a_legacy_file_can_be_undone(legacy):
    original = legacy.read_bytes()
    undone = unfix_file(fix_file(legacy, FixOptions(metadata=True)).output)
    assert undone.output.read_bytes() == original


# Legacy tar archives


def test_a_repaired_legacy_tar_is_loaded_by_torch_and_differs_only_where_planned(tmp_path):
    state = {"c.weight": np.ones((4, 2), "f4"), "b.running_mean": np.array([0.1, np.inf, 0.3, 0.2], "f4"),
             "b.running_var": np.array([1.0, 1.1, 0.9, -1], "f4"), "loss": float("nan")}  # fmt: skip
    path = old_files.tar_at(tmp_path / "run.pth", state)
    outcome = fix_file(path, FixOptions(metadata=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tar archives are extracted without a filter
        before, after = (torch.load(each, weights_only=False) for each in (path, outcome.output))
    assert changed(before, after) == {"b.running_mean", "b.running_var", "loss"}
    assert diagnose_file(outcome.output).healthy
    old, new = (np.frombuffer(each.read_bytes(), dtype=np.uint8) for each in (path, outcome.output))
    assert np.count_nonzero(old != new) <= 2 * 4 + 8


# NumPy archives


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(("order", "layout"), [("<", "C"), (">", "C"), ("<", "F"), (">", "F")])
def test_a_repaired_npz_is_loaded_by_numpy_and_differs_only_where_planned(tmp_path, order, layout, save):
    mean = np.array([0.1, np.inf, 0.3, 0.2], f"{order}f4")
    var = np.array([1.0, 1.1, 0.9, -1], f"{order}f8")
    arrays = {"c.weight": np.asarray(np.arange(1, 9.0).reshape(4, 2), f"{order}f4", order=layout),
              "b.running_mean": mean, "b.running_var": var, "note": np.array("text")}  # fmt: skip
    path = tmp_path / "run.npz"
    save(path, **arrays)
    outcome = fix_file(path)
    with np.load(path) as before, np.load(outcome.output) as after:
        assert list(before) == list(after)
        assert {n for n in before if before[n].tobytes() != after[n].tobytes()} == {"b.running_mean", "b.running_var"}
        assert np.flatnonzero(after["b.running_mean"] != mean).tolist() == [1]
        assert np.flatnonzero(after["b.running_var"] != var).tolist() == [3]
    assert diagnose_file(outcome.output, verify_checksums=True).healthy
    with zipfile.ZipFile(outcome.output) as archive:
        assert archive.testzip() is None


def test_damage_inside_a_weight_in_fortran_order_is_mended_in_its_place(tmp_path):
    weight = np.asfortranarray(np.arange(1, 13.0, dtype="f4").reshape(3, 4))
    donor, path = tmp_path / "donor.npz", tmp_path / "run.npz"
    np.savez(donor, w=weight)
    broken = weight.copy(order="F")
    broken[1, 2] = np.nan
    np.savez(path, w=broken)
    outcome = fix_file(path, FixOptions(donors=(donor,)))
    assert outcome.output.read_bytes() == donor.read_bytes()
