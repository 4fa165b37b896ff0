"""Two files side by side: what is paired with what, and what became of it."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import checkpoints
from torchmend.doctor.comparing import compare_files, drift
from torchmend.facts.tensors import NormLayer, Role, TensorRef
from torchmend.reports.comparison import Kind, by_layer, figures, sentence


@pytest.fixture
def pair(tmp_path):
    """Return a function that saves two values and compares the files."""

    def compare(before, after, **options):
        a = checkpoints.save(before, tmp_path / "a.pth")
        b = checkpoints.save(after, tmp_path / "b.pth")
        return compare_files(a, b, **options)

    return compare


def kinds(comparison):
    return {change.ref.name: change.kind for change in comparison.changes}


def test_a_file_does_not_differ_from_itself(pair):
    found = pair(checkpoints.training_checkpoint(), checkpoints.training_checkpoint())
    assert {change.kind for change in found.changes} == {Kind.UNCHANGED}
    assert (found.drifts, found.scalars, found.broke) == ((), (), False)
    assert sentence(found) == "Every tensor is bit for bit the same."


def test_a_damaged_file_does_not_break_against_itself(pair):
    damaged = checkpoints.nan_weight(checkpoints.training_checkpoint())
    found = pair(damaged, damaged)
    assert not found.broke
    assert sentence(found) == "Nothing broke between A and B, but 1 tensor is damaged in both."


def test_a_broken_statistic_is_named_and_the_weights_are_cleared(pair):
    found = pair(checkpoints.training_checkpoint(), checkpoints.infinite_mean(checkpoints.training_checkpoint()))
    (broke,) = found.of(Kind.BROKE)
    assert (broke.ref.name, broke.delta.broke) == (checkpoints.MEAN, 64)
    assert f"1 tensor broke, first in {checkpoints.LAYER} (running statistics only: the weights" in sentence(found)


def test_the_way_back_mirrors(pair):
    whole, damaged = checkpoints.training_checkpoint(), checkpoints.nan_channels(checkpoints.training_checkpoint())
    there, back = pair(whole, damaged), pair(damaged, whole)
    assert [c.ref.name for c in there.of(Kind.BROKE)] == [c.ref.name for c in back.of(Kind.HEALED)]
    assert not back.broke


def test_damage_that_spreads_inside_a_tensor_is_new_damage(pair):
    first = checkpoints.nan_channels(checkpoints.training_checkpoint(), [3])
    then = checkpoints.nan_channels(checkpoints.training_checkpoint(), [3, 4])
    (broke,) = pair(first, then).of(Kind.BROKE)
    assert (broke.delta.broke, broke.still_damaged) == (1, True)


def test_the_relative_change_is_that_of_the_norms(pair):
    found = pair({"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([3.0, 5.0])})
    assert found.changes[0].relative == pytest.approx(0.2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float64])
def test_narrow_types_are_compared_with_themselves(pair, dtype):
    before = torch.tensor([1.0, 2.0]).to(dtype)
    found = pair({"w": before}, {"w": torch.tensor([1.0, 4.0]).to(dtype)})
    assert found.changes[0].delta.largest == 2.0


def test_another_shape_or_dtype_is_listed_as_such(pair):
    found = pair({"w": torch.ones(2), "v": torch.ones(2)}, {"w": torch.ones(3), "v": torch.ones(2).half()})
    assert kinds(found) == {"w": Kind.RESHAPED, "v": Kind.RESHAPED}
    assert "2 of another shape or dtype" in figures(found)


def test_added_and_removed_change_places_on_the_way_back(pair):
    small, large = {"w": torch.ones(2)}, {"w": torch.ones(2), "v": torch.ones(2)}
    assert kinds(pair(small, large))["v"] is Kind.ADDED
    assert kinds(pair(large, small))["v"] is Kind.REMOVED


def test_wrappers_do_not_hide_a_tensor(pair):
    found = pair({"w": torch.ones(2)}, {"module.w": torch.ones(2)})
    assert [change.kind for change in found.changes] == [Kind.UNCHANGED]


def test_safetensors_and_a_checkpoint_of_the_same_model_agree(tmp_path):
    save_file(checkpoints.state_dict(), tmp_path / "a.safetensors")
    b = checkpoints.save(checkpoints.training_checkpoint(), tmp_path / "b.pth")
    found = compare_files(tmp_path / "a.safetensors", b)
    assert {change.kind for change in found.changes if not change.ref.role.is_optimizer} == {Kind.UNCHANGED}


def test_a_transposed_tensor_is_compared_by_its_elements(pair):
    matrix = torch.arange(6.0).reshape(2, 3)
    assert kinds(pair({"w": matrix}, {"w": matrix.t().contiguous().t()})) == {"w": Kind.UNCHANGED}


def test_metadata_that_differ_are_listed_and_nan_equals_nan(pair):
    found = pair(
        {"w": torch.ones(2), "step": 1, "loss": float("nan")}, {"w": torch.ones(2), "step": 2, "loss": float("nan")}
    )
    assert [(each.dotted, each.before.value, each.after.value) for each in found.scalars] == [("step", 1, 2)]


def test_a_filter_narrows_and_tells_what_broke_outside(pair):
    damaged = checkpoints.infinite_mean(checkpoints.training_checkpoint())
    found = pair(checkpoints.training_checkpoint(), damaged, wanted=lambda name: "head" in name)
    assert {change.ref.name for change in found.changes} == {"head.weight", "head.bias"}
    assert (found.broke, found.outside) == (False, 1)


def test_a_file_that_cannot_be_read_gives_the_two_diagnoses(tmp_path):
    good = checkpoints.save({"w": torch.ones(2)}, tmp_path / "a.pth")
    found = compare_files(good, tmp_path / "missing.pth")
    assert (found.changes, found.checked, found.before.checked) == ((), False, True)


def test_layers_come_with_the_largest_relative_change_first(pair):
    before = {"a.weight": torch.ones(2), "b.weight": torch.ones(2)}
    found = pair(before, {"a.weight": torch.ones(2) * 1.1, "b.weight": torch.ones(2) * 2})
    assert [layer for layer, _ in by_layer(found.of(Kind.CHANGED))] == ["b", "a"]


def layer():
    def ref(leaf):
        return TensorRef(source="", container="", name=f"bn.{leaf}", shape=(2,), dtype="float32", role=Role.BUFFER)

    return NormLayer(container="", prefix="bn", mean=ref("running_mean"), var=ref("running_var"))


def test_drift_is_in_standard_deviations_of_the_first():
    moved = drift(layer(), np.zeros(2), np.full(2, 4.0), np.array([0.0, 6.0]), np.full(2, 16.0))
    assert (moved.shift, moved.channel) == (pytest.approx(3.0, rel=1e-4), 1)
    assert moved.widest == pytest.approx(2.0, rel=1e-4)


def test_damaged_channels_do_not_drift():
    moved = drift(layer(), np.zeros(2), np.ones(2), np.array([np.inf, 1.0]), np.ones(2))
    assert (moved.channels, moved.channel) == (1, 1)
    assert drift(layer(), np.zeros(2), np.ones(2), np.full(2, np.nan), np.ones(2)) is None
