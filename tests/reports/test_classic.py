"""The report in the lines of the classic recipe."""

import dataclasses

import pytest

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Diagnosis, Finding, Measure
from torchmend.facts.tensors import Role, Scalar, TensorRef
from torchmend.reports.classic import classic_text

LAYER = "refinement_ffc.scales.0.ffc.local_conv.1"


def ref(name, role, container="model_state_dict", shape=(64,)):
    return TensorRef(source="x", container=container, name=name, shape=shape, dtype="float32", role=role)


def finding(code, tensor, **counts):
    measure = Measure(numel=64, **counts) if counts else None
    return Finding(code=code, severity=Severity.ERROR, message="It is.", remedy="Do this.", ref=tensor, measure=measure)


MEAN = finding(Code.MEAN_NOT_FINITE, ref(f"{LAYER}.running_mean", Role.RUNNING_MEAN), pos_inf=64)
VAR = finding(Code.VARIANCE_NEGATIVE, ref(f"{LAYER}.running_var", Role.RUNNING_VAR), negative=3, minimum=-1.0)
WEIGHT = finding(Code.WEIGHT_NOT_FINITE, ref("conv.weight", Role.WEIGHT), nan=1)
MOMENT = finding(Code.FIRST_MOMENT_NOT_FINITE, ref("state.0.exp_avg", Role.FIRST_MOMENT, "optimizer"), nan=1)
TRUNCATED = Finding(code=Code.TRUNCATED, severity=Severity.ERROR, message="Cut off.", remedy="Use another.")
SCALE = Finding(
    code=Code.SCALER_BROKEN,
    severity=Severity.ERROR,
    message="It is.",
    remedy="Do this.",
    scalar=Scalar(path=("extra", "scale"), value=0.0, place=100),
    detail="scale 0",
)
RATE = dataclasses.replace(SCALE, code=Code.LEARNING_RATE, scalar=Scalar(path=("lr",), value=1.5, place=9), detail="")


def lines(*findings, scalars=()):
    refs = tuple(f.ref for f in findings if f.ref)
    found = Diagnosis(source="x.pth", main="model_state_dict", refs=refs, findings=findings, scalars=scalars)
    return classic_text(found).splitlines()


def after(found, line, count):
    start = found.index(line) + 1
    return found[start : start + count]


def test_a_corrupted_statistic_has_the_four_lines_of_the_recipe():
    found = lines(MEAN)
    heading = f"CORRUPTED [BatchNorm running_mean]: {LAYER}.running_mean"
    assert after(found, heading, 3) == ["  Shape: [64]", "  NaN count: 0 / 64", "  Inf count: 64 / 64"]


def test_the_summary_has_the_three_figures_of_the_recipe():
    assert after(lines(MEAN, WEIGHT), "Summary", 4)[1:] == [
        "Total parameters/buffers: 2",
        "Corrupted BatchNorm stats: 1",
        "Corrupted weights/biases: 1",
    ]


def test_the_sections_stand_in_their_order():
    found = lines(MEAN)
    positions = [found.index(title) for title in ("Checkpoint diagnosis", "Parameter Analysis", "Summary")]
    assert positions == sorted(positions)


def test_a_negative_variance_has_a_line_of_its_own():
    assert "  Negative count: 3 / 64" in lines(VAR)


def test_tensors_outside_the_model_are_named_with_their_container():
    assert "CORRUPTED [first moment]: optimizer.state.0.exp_avg" in lines(MOMENT)


def test_optimizer_tensors_are_counted_only_where_some_are_damaged():
    assert "Corrupted optimizer tensors: 1" in lines(MOMENT)
    assert not any("optimizer tensors" in line for line in lines(MEAN))


def test_what_is_fixable_is_listed():
    found = lines(MEAN, WEIGHT)
    assert found[found.index("Fixable:") + 1 :] == [f"  - {LAYER}.running_mean (NaN 0 / 64   Inf 64 / 64)"]


def test_nothing_is_listed_as_fixable_where_nothing_is():
    assert "Fixable:" not in lines(WEIGHT)


def test_a_statistic_that_could_not_be_read_is_not_announced_as_fixable():
    unread = finding(Code.OUT_OF_BOUNDS, ref("bn.running_mean", Role.RUNNING_MEAN))
    assert "Fixable:" not in lines(unread)


def test_a_healthy_file_says_so_in_one_line():
    assert "Everything is finite and in range." in lines()


def test_an_unreadable_file_shows_code_message_and_remedy():
    assert "TM902: Cut off. Use another." in lines(TRUNCATED)


@pytest.mark.parametrize(("name", "value"), [("iteration", 12000), ("epoch", 3), ("best_psnr", 27.5)])
def test_the_banner_shows_what_the_trainer_recorded(name, value):
    assert f"{name}: {value}" in lines(scalars=(Scalar(path=(name,), value=value),))


def test_the_banner_does_not_show_numbers_from_deeper_down():
    assert "epoch: 3" not in lines(scalars=(Scalar(path=("scheduler", "epoch"), value=3),))


def test_a_number_is_shown_in_one_line_and_counted():
    found = lines(SCALE)
    assert "TM402: extra.scale = 0.0: It is. Do this." in found
    assert "Corrupted numbers beside the model: 1" in found


def test_numbers_are_counted_only_where_some_are_damaged():
    assert not any("numbers beside" in line for line in lines(MEAN))


def test_a_number_that_needs_an_option_is_listed_with_it():
    found = lines(SCALE, RATE)
    assert found[found.index("Fixable:") + 1 :] == ["  - extra.scale = 0.0", "  - lr = 1.5 (with --metadata)"]


def test_what_is_no_error_is_not_called_corrupted():
    note = dataclasses.replace(MEAN, code=Code.STATISTIC_BEYOND_HALF, severity=Severity.NOTE, detail="70000")
    found = lines(note)
    assert f"TM109 [note]: {LAYER}.running_mean: It is. Do this. (70000)" in found
    assert not any(line.startswith("CORRUPTED") for line in found)


def test_errors_stand_before_notes():
    note = dataclasses.replace(WEIGHT, code=Code.WEIGHT_BEYOND_HALF, severity=Severity.NOTE)
    found = lines(note, MEAN)
    (error,) = [at for at, line in enumerate(found) if line.startswith("CORRUPTED")]
    (noted,) = [at for at, line in enumerate(found) if line.startswith("TM205")]
    assert error < noted


def test_a_weight_with_a_sound_copy_is_listed_as_fixable():
    copied = dataclasses.replace(WEIGHT, code=Code.LIVE_NOT_FINITE, severity=Severity.NOTE, measure=None)
    found = lines(WEIGHT, copied)
    assert found[found.index("Fixable:") + 1].startswith("  - conv.weight")
