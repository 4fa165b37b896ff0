"""What follows from the findings of a diagnosis."""

import pytest

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Diagnosis, Finding, Measure
from torchmend.facts.tensors import Role, TensorRef

REF = TensorRef(source="x", container="m", name="a", shape=(4,), dtype="float32", role=Role.WEIGHT)


def finding(code, severity=Severity.ERROR, tensor=REF):
    return Finding(code=code, severity=severity, message="It is.", remedy="Do.", ref=tensor)


def diagnosis(*findings):
    return Diagnosis(source="x", findings=findings)


MEAN = finding(Code.MEAN_NOT_FINITE)
NEGATIVE = finding(Code.VARIANCE_NEGATIVE)
WEIGHT = finding(Code.WEIGHT_NOT_FINITE)
NOTE = finding(Code.METADATA_NOT_FINITE, Severity.NOTE)
TRUNCATED = finding(Code.TRUNCATED, tensor=None)
OUT_OF_BOUNDS = finding(Code.OUT_OF_BOUNDS)
EVERYTHING = diagnosis(TRUNCATED, MEAN, NEGATIVE, WEIGHT, NOTE)


def test_infinities_of_both_signs_and_nan_add_up():
    counted = Measure(numel=10, nan=1, pos_inf=2, neg_inf=4)
    assert (counted.inf, counted.nonfinite) == (6, 7)


def test_nothing_counted_is_nothing_damaged():
    assert Measure(numel=10).nonfinite == 0


@pytest.mark.parametrize(
    ("findings", "checked", "healthy", "worst"),
    [
        ((), True, True, None),
        ((NOTE,), True, True, Severity.NOTE),
        ((finding(Code.WEIGHT_NOT_FINITE, Severity.WARNING),), True, True, Severity.WARNING),
        ((MEAN,), True, False, Severity.ERROR),
        ((NOTE, MEAN), True, False, Severity.ERROR),
        ((TRUNCATED,), False, False, Severity.ERROR),
        ((OUT_OF_BOUNDS,), False, False, Severity.ERROR),
    ],
)
def test_findings_decide_whether_a_source_is_checked_and_healthy(findings, checked, healthy, worst):
    found = diagnosis(*findings)
    assert (found.checked, found.healthy, found.worst) == (checked, healthy, worst)


def test_something_unchecked_is_never_healthy_even_as_a_note():
    assert not diagnosis(finding(Code.UNREADABLE, Severity.NOTE)).healthy


def test_damage_is_the_errors_about_tensors():
    assert EVERYTHING.damaged == (MEAN, NEGATIVE, WEIGHT)


@pytest.mark.parametrize(
    ("select", "ignore", "expected"),
    [
        ((), (), (TRUNCATED, MEAN, NEGATIVE, WEIGHT, NOTE)),
        (("TM1",), (), (TRUNCATED, MEAN, NEGATIVE)),
        (("TM101",), (), (TRUNCATED, MEAN)),
        (("TM1", "TM2"), (), (TRUNCATED, MEAN, NEGATIVE, WEIGHT)),
        ((), ("TM1",), (TRUNCATED, WEIGHT, NOTE)),
        (("TM1",), ("TM103",), (TRUNCATED, MEAN)),
        (("TM1",), ("TM",), (TRUNCATED,)),
        (("TM3",), (), (TRUNCATED,)),
        ((), ("TM9",), (TRUNCATED, MEAN, NEGATIVE, WEIGHT, NOTE)),
    ],
)
def test_prefixes_choose_findings_but_never_hide_that_something_was_not_checked(select, ignore, expected):
    assert EVERYTHING.selected(select, ignore) == expected


def test_prefixes_may_come_from_a_generator():
    assert EVERYTHING.selected((p for p in ["TM2"]), (p for p in [])) == (TRUNCATED, WEIGHT)
