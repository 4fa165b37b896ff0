"""What a guard says of the place of a fault becomes the bench's own words."""

import pytest

from benchmarks.faults.ours import ranks_named_by, told_by
from benchmarks.faults.places import Side
from torchmend import Action, Cause, Code, Decision, Incident, Severity
from torchmend.facts.findings import Finding
from torchmend.facts.tensors import Scalar
from torchmend.live.forensics.findings import Localisation


def decision(cause=None, rank=None, **fields):
    found = cause and Localisation(cause=cause, module="a", operation="_softmax", backward=True)
    incident = found and Incident(step=7, what="", undone="", found=found, rank=rank)
    return Decision(action=Action.REFUSE, step=7, incident=incident, **fields)


@pytest.mark.parametrize(
    ("cause", "side"),
    [
        (Cause.MODULE, Side.MODULE),
        (Cause.LOSS, Side.LOSS),
        (Cause.INPUT, Side.INPUT),
        (Cause.PARAMETER, Side.STATE),
        (Cause.BUFFER, Side.STATE),
    ],
)
def test_an_incident_names_a_place(cause, side):
    (told,) = told_by(decision(cause), 3)
    assert (told.step, told.side, told.name, told.operation, told.backward) == (3, side, "a", "softmax", True)


@pytest.mark.parametrize("cause", [Cause.UNKNOWN, Cause.NOT_AGAIN])
def test_an_incident_without_a_place_names_none(cause):
    assert told_by(decision(cause), 3) == []


@pytest.mark.parametrize(("code", "said"), [(Code.MEAN_NOT_FINITE, True), (Code.GRADIENT_NOT_FINITE, False)])
def test_without_an_incident_a_finding_about_the_model_itself_names_its_tensor(code, said):
    place = Scalar(path=("norm", "running_mean"), value=1.0)
    finding = Finding(code=code, severity=Severity.ERROR, message="m", remedy="r", scalar=place)
    told = told_by(decision(findings=(finding,)), -1)
    assert [(each.side, each.name) for each in told] == ([(Side.STATE, "norm.running_mean")] if said else [])


@pytest.mark.parametrize("rank", [None, 0, 1])
def test_the_process_that_an_incident_names_is_picked_up(rank):
    assert ranks_named_by(decision(Cause.LOSS, rank)) == ([] if rank is None else [rank])
