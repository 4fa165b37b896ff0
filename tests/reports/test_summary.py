"""Verdicts and figures."""

import pytest

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Diagnosis, Finding
from torchmend.facts.tensors import Role, TensorRef
from torchmend.reports.summary import Verdict, is_fixable, summarise


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
