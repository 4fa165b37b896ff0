"""Places are judged by where the fault is."""

import json

import pytest

from benchmarks.faults.places import (
    Located,
    Side,
    Told,
    Truth,
    Verdict,
    first_told,
    names_operation,
    of_autograd,
    plain,
    verdict,
)

IN_MODULE = Truth(sides=(Side.MODULE,), names=("a", "b"), operations=("div",))
IN_LOSS = Truth(sides=(Side.LOSS, Side.INPUT), operations=("sqrt",), backward=True)
NOWHERE = Truth(because="all is finite")


@pytest.mark.parametrize(
    ("told", "truth", "expected"),
    [
        (None, IN_MODULE, Verdict.NOTHING),
        (Told(step=0, side=Side.MODULE, name="a"), IN_MODULE, Verdict.MODULE),
        (Told(step=0, side=Side.MODULE, name="b"), IN_MODULE, Verdict.MODULE),
        (Told(step=0, side=Side.MODULE, name="c"), IN_MODULE, Verdict.WRONG),
        (Told(step=0, side=Side.LOSS, name="a"), IN_MODULE, Verdict.WRONG),
        (Told(step=0, side=Side.LOSS, name="last"), IN_LOSS, Verdict.SIDE),
        (Told(step=0, side=Side.INPUT), IN_LOSS, Verdict.SIDE),
        (Told(step=0, operation="div"), IN_MODULE, Verdict.OPERATION),
        (Told(step=0, operation="mul"), IN_MODULE, Verdict.WRONG),
        (Told(step=0, side=Side.MODULE, name="a"), NOWHERE, Verdict.WRONG),
    ],
)
def test_a_place_is_right_by_its_side_and_name(told, truth, expected):
    assert verdict(told, truth) is expected


@pytest.mark.parametrize(("backward", "right"), [(True, True), (False, False)])
def test_the_slope_of_an_operation_is_named_by_the_backward_pass_only(backward, right):
    assert names_operation(Told(step=0, operation="sqrt", backward=backward), IN_LOSS) is right


def test_an_operation_counts_although_the_place_is_wrong():
    told = Told(step=0, side=Side.MODULE, name="c", operation="div")
    assert names_operation(told, IN_MODULE)


def test_what_was_said_between_the_start_and_the_onset_is_not_about_the_fault():
    before, early, late = (Told(step=each) for each in (-1, 3, 12))
    assert first_told([early, late], 10) is late
    assert first_told([before, early, late], 10) is before
    assert first_told([early], 10) is None


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        ("SqrtBackward0", "sqrt"),
        ("LogSoftmaxBackward0", "log_softmax"),
        ("NativeBatchNormBackward0", "native_batch_norm"),
        ("CtcLossBackward0", "ctc_loss"),
        ("PowBackward1", "pow"),
    ],
)
def test_an_autograd_function_is_of_an_operation(function, operation):
    assert of_autograd(function) == operation


@pytest.mark.parametrize(("name", "short"), [("_softmax", "softmax"), ("div_", "div"), ("add.Tensor", "add")])
def test_operations_are_compared_without_underscores(name, short):
    assert plain(name) == short


@pytest.mark.parametrize("told", [None, Told(step=3, side=Side.STATE, name="a"), Told(step=3, operation="div")])
def test_what_was_located_goes_through_json(told):
    found = Located(case="overflow", tool="torchmend", seed=1, told=told)
    assert Located.from_json(json.loads(json.dumps(found.as_json()))) == found
