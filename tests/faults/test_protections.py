"""What a guard decided becomes the bench's own words for acts and causes."""

import pytest

from benchmarks.faults.ours import act_of, cause_of
from benchmarks.faults.training import Act
from torchmend import Action, Code, Decision, Severity
from torchmend.facts.findings import Finding
from torchmend.facts.tensors import Scalar

NOTE, WARNING = Severity.NOTE, Severity.WARNING


def finding(severity, **fields):
    return Finding(code=Code.GRADIENT_NOT_FINITE, severity=severity, message="m", remedy="r", **fields)


@pytest.mark.parametrize(
    ("action", "act"),
    [
        (Action.REPAIR, Act.REPAIR),
        (Action.REFUSE, Act.UNDO),
        (Action.LOWER_RATE, Act.LOWER_RATE),
        (Action.ROLL_BACK, Act.ROLL_BACK),
        (Action.STOP, Act.STOP),
    ],
)
def test_an_action_has_its_act(action, act):
    assert act_of(Decision(action=action, step=0)) is act


@pytest.mark.parametrize("action", [Action.PROCEED, Action.LOG])
@pytest.mark.parametrize(("severity", "act"), [(NOTE, Act.LOG), (WARNING, Act.WARN)])
def test_a_step_that_happens_is_a_warning_only_by_its_findings(action, severity, act):
    assert act_of(Decision(action=action, step=0, findings=(finding(severity),))) is act


@pytest.mark.parametrize("action", list(Action))
def test_every_action_has_an_act(action):
    assert isinstance(act_of(Decision(action=action, step=0)), Act)


def test_a_cause_holds_origin_codes_details_and_explanation():
    told = Decision(
        action=Action.STOP,
        step=0,
        origin="a.weight",
        findings=(finding(WARNING, scalar=Scalar(path=("head", "weight"), value=1.0), detail="norm nan"),),
        explanation="Lower the rate",
    )
    assert cause_of(told).split("; ") == ["a.weight", "TM601 head.weight norm nan", "Lower the rate"]
