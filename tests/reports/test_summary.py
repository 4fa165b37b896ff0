"""Verdicts and figures."""

import dataclasses

import pytest

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Diagnosis, Finding
from torchmend.facts.tensors import Role, Scalar, TensorRef
from torchmend.reports.summary import (
    Cure,
    Verdict,
    cure,
    is_fixable,
    next_command,
    remedy,
    sound_copies,
    summarise,
)
from torchmend.rules.texts import TEXTS


def ref(role, name="t", container="model"):
    return TensorRef(source="x", container=container, name=name, shape=(4,), dtype="float32", role=role)


def finding(code, tensor, severity=Severity.ERROR):
    return Finding(code=code, severity=severity, message="It is.", remedy="Do.", ref=tensor)


MEAN = finding(Code.MEAN_NOT_FINITE, ref(Role.RUNNING_MEAN, "bn.running_mean"))
VAR_NAN = finding(Code.VARIANCE_NOT_FINITE, ref(Role.RUNNING_VAR, "bn.running_var"))
VAR_NEGATIVE = finding(Code.VARIANCE_NEGATIVE, ref(Role.RUNNING_VAR, "bn.running_var"))
WEIGHT = finding(Code.WEIGHT_NOT_FINITE, ref(Role.WEIGHT, "conv.weight"))
MASK = finding(Code.WEIGHT_NOT_FINITE, ref(Role.INFINITE_BUFFER, "attn_mask"))
BIAS = finding(Code.BIAS_NOT_FINITE, ref(Role.BIAS, "conv.bias"))
FIRST = finding(Code.FIRST_MOMENT_NOT_FINITE, ref(Role.FIRST_MOMENT, "state.0.exp_avg", "optimizer"))
SECOND = finding(Code.SECOND_MOMENT_NEGATIVE, ref(Role.SECOND_MOMENT, "state.0.exp_avg_sq", "optimizer"))
STATE = finding(Code.OPTIMIZER_STATE_NOT_FINITE, ref(Role.OPTIMIZER_STATE, "state.0.odd", "optimizer"))
NOTE = finding(Code.METADATA_NOT_FINITE, ref(Role.METADATA, "losses", ""), Severity.NOTE)
TRUNCATED = finding(Code.TRUNCATED, None)
UNREADABLE_MEAN = finding(Code.OUT_OF_BOUNDS, ref(Role.RUNNING_MEAN, "bn.running_mean"))
AVERAGED = finding(Code.AVERAGED_NOT_FINITE, ref(Role.WEIGHT, "conv.weight", "ema"))
COPIED = finding(Code.LIVE_NOT_FINITE, WEIGHT.ref, Severity.NOTE)
SCALER_TENSOR = finding(Code.SCALER_BROKEN, ref(Role.SCALER_STATE, "scale", "scaler"))
SHAPE = finding(Code.MOMENT_SHAPE, ref(Role.FIRST_MOMENT, "state.0.exp_avg", "optimizer"), Severity.WARNING)
STEP = finding(Code.STEP_COUNT, ref(Role.OPTIMIZER_STEP, "state.0.step", "optimizer"), Severity.WARNING)
CHECKSUM = finding(Code.WRONG_CHECKSUM, None)
CHECKSUM_OF_TENSOR = finding(Code.WRONG_CHECKSUM, MEAN.ref)
UNREFERENCED = finding(Code.UNREFERENCED, None, Severity.NOTE)
CALLS = finding(Code.UNKNOWN_GLOBAL, None, Severity.WARNING)


def number(code, leaf, place=100, severity=Severity.ERROR):
    scalar = Scalar(path=("extra", leaf), value=float("nan"), place=place)
    return Finding(code=code, severity=severity, message="It is.", remedy="Do.", scalar=scalar)


SCALE = number(Code.SCALER_BROKEN, "scale")
RATE = number(Code.LEARNING_RATE, "lr")
FIXED_SCALE = number(Code.SCALER_BROKEN, "scale", place=None)
BEST = number(Code.BEST_METRIC, "best", severity=Severity.WARNING)


def summary(*findings, refs=()):
    return summarise(Diagnosis(source="x", main="model", findings=findings, refs=refs))


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        ((), Verdict.HEALTHY),
        ((NOTE,), Verdict.HEALTHY),
        ((MEAN,), Verdict.FIXABLE),
        ((MEAN, VAR_NEGATIVE, FIRST, SECOND), Verdict.FIXABLE),
        ((WEIGHT,), Verdict.NEEDS_DONOR),
        ((BIAS,), Verdict.NEEDS_DONOR),
        ((MASK,), Verdict.NEEDS_DONOR),
        ((STATE,), Verdict.NEEDS_DONOR),
        ((MEAN, WEIGHT), Verdict.NEEDS_DONOR),
        ((AVERAGED,), Verdict.FIXABLE),
        ((WEIGHT, COPIED), Verdict.FIXABLE),
        ((WEIGHT, BIAS, COPIED), Verdict.NEEDS_DONOR),
        ((SCALE,), Verdict.FIXABLE),
        ((SCALER_TENSOR,), Verdict.FIXABLE),
        ((FIXED_SCALE,), Verdict.NEEDS_DONOR),
        ((RATE,), Verdict.FIXABLE),
        ((SHAPE, STEP, BEST, NOTE), Verdict.HEALTHY),
        ((UNREFERENCED, CALLS), Verdict.HEALTHY),
        ((CHECKSUM,), Verdict.UNTRUSTED),
        ((CHECKSUM_OF_TENSOR,), Verdict.UNTRUSTED),
        ((MEAN, CHECKSUM), Verdict.UNTRUSTED),
        ((CHECKSUM, TRUNCATED), Verdict.UNCHECKED),
        ((TRUNCATED,), Verdict.UNCHECKED),
        ((MEAN, UNREADABLE_MEAN), Verdict.UNCHECKED),
    ],
)
def test_the_worst_finding_decides_the_verdict(findings, verdict):
    assert summary(*findings).verdict is verdict


def test_damage_is_counted_by_what_the_tensors_are_for():
    found = summary(MEAN, VAR_NAN, WEIGHT, MASK, BIAS, FIRST, SECOND, STATE, NOTE)
    assert (found.statistics, found.weights, found.optimizer) == (2, 3, 3)


def test_a_tensor_with_two_findings_counts_once():
    assert summary(VAR_NAN, VAR_NEGATIVE).statistics == 1


def test_tensors_that_were_not_checked_are_not_counted_as_damaged():
    assert summary(UNREADABLE_MEAN).statistics == 0


def test_entries_are_counted_by_container():
    refs = (ref(Role.WEIGHT, "a"), ref(Role.BIAS, "b"), ref(Role.FIRST_MOMENT, "c", "optimizer"))
    found = summary(refs=refs)
    assert (found.main_entries, found.entries) == (2, {"model": 2, "optimizer": 1})


def test_nothing_read_is_no_entries():
    assert (summary(TRUNCATED).main_entries, summary(TRUNCATED).entries) == (0, {})


@pytest.mark.parametrize("finding", [MEAN, VAR_NAN, VAR_NEGATIVE, FIRST, SECOND])
def test_statistics_and_moments_are_fixable_from_the_file_alone(finding):
    assert is_fixable(finding)


@pytest.mark.parametrize("finding", [WEIGHT, BIAS, MASK, STATE, NOTE, TRUNCATED])
def test_nothing_else_is_fixable_from_the_file_alone(finding):
    assert not is_fixable(finding)


def test_a_statistic_that_could_not_be_read_is_not_fixable():
    assert not is_fixable(UNREADABLE_MEAN)


@pytest.mark.parametrize("code", [Code.WRONG_CHECKSUM, Code.OVERLAPPING, Code.DUPLICATE_NAMES, Code.DANGEROUS_GLOBAL])
def test_an_error_about_the_file_itself_is_never_healthy_and_never_fixable(code):
    assert summary(finding(code, None)).verdict is Verdict.UNTRUSTED


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (MEAN, Cure.FILE),
        (AVERAGED, Cure.FILE),
        (SCALE, Cure.FILE),
        (SCALER_TENSOR, Cure.FILE),
        (RATE, Cure.METADATA),
        (WEIGHT, Cure.DONOR),
        (STATE, Cure.DONOR),
        (FIXED_SCALE, Cure.NONE),
        (BEST, Cure.NONE),
        (SHAPE, Cure.NONE),
        (CHECKSUM_OF_TENSOR, Cure.NONE),
    ],
)
def test_each_error_has_its_cure_and_what_is_no_error_has_none(found, expected):
    assert cure(found) is expected


def test_a_weight_whose_averaged_copy_is_sound_is_fixable_from_the_file():
    copied = sound_copies(Diagnosis(source="x", findings=(WEIGHT, COPIED)))
    assert cure(WEIGHT, copied) is Cure.FILE
    assert cure(BIAS, copied) is Cure.DONOR


def test_a_weight_whose_averaged_copy_is_sound_is_not_sent_to_a_donor():
    assert remedy(WEIGHT, frozenset({WEIGHT.ref})) == TEXTS[Code.LIVE_NOT_FINITE].remedy
    assert remedy(WEIGHT) == WEIGHT.remedy


def test_a_statistic_keeps_its_remedy_whatever_has_a_copy():
    assert remedy(MEAN, frozenset({WEIGHT.ref})) == MEAN.remedy


def test_weights_that_need_a_donor_are_counted_apart():
    found = summary(WEIGHT, BIAS, AVERAGED, COPIED)
    assert (found.weights, found.from_donor) == (3, 1)


def test_numbers_beside_the_model_are_counted_in_tensors_and_in_scalars():
    assert summary(SCALE, SCALER_TENSOR, RATE, BEST).metadata == 3


COMMANDS = [
    ((MEAN,), "torchmend fix x.pth"),
    ((WEIGHT,), "torchmend fix x.pth --donor OTHER_CHECKPOINT"),
    ((RATE,), "torchmend fix x.pth --metadata"),
    ((MEAN, SCALE, RATE), "torchmend fix x.pth --metadata"),
    ((WEIGHT, RATE), "torchmend fix x.pth --donor OTHER_CHECKPOINT --metadata"),
    ((WEIGHT, COPIED), "torchmend fix x.pth"),
    ((FIXED_SCALE,), None),
    ((BEST,), None),
    ((CHECKSUM, MEAN), None),
    ((TRUNCATED,), None),
    ((), None),
]


@pytest.mark.parametrize(("findings", "command"), COMMANDS)
def test_the_next_command_has_the_options_that_the_damage_needs(findings, command):
    assert next_command(Diagnosis(source="x.pth", findings=findings)) == command


@pytest.mark.parametrize(
    ("source", "written"), [("my run/x.pth", "'my run/x.pth'"), ("-x.pth", "./-x.pth"), ("$x.pth", "'$x.pth'")]
)
def test_the_next_command_can_be_pasted_into_a_shell(source, written):
    damaged = dataclasses.replace(Diagnosis(source=source), findings=(MEAN,))
    assert next_command(damaged) == f"torchmend fix {written}"
