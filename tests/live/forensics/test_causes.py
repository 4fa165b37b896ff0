"""Each kind of place and operation points to a cause that has a page."""

import pytest

from torchmend import Cause, Code, Localisation
from torchmend.live.forensics.causes import cause_of
from torchmend.rules.texts import TEXTS


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"cause": Cause.INPUT}, Code.BATCH_NOT_FINITE),
        ({"cause": Cause.PARAMETER}, Code.STATE_NOT_FINITE_BEFORE),
        ({"cause": Cause.NOT_AGAIN}, Code.NOT_REPRODUCED),
        ({"cause": Cause.MODULE, "operation": "addmm", "dtype": "float16", "value": "Inf"}, Code.OVERFLOW_IN_HALF),
        ({"cause": Cause.MODULE, "operation": "addmm", "dtype": "float32", "value": "Inf"}, Code.OVERFLOW),
        (
            {"cause": Cause.MODULE, "operation": "addmm", "value": "Inf", "largest": 1e9, "usual": 1.0},
            Code.BATCH_OUT_OF_RANGE,
        ),
        ({"cause": Cause.MODULE, "operation": "native_layer_norm", "dtype": "float32"}, Code.OVERFLOW),
        ({"cause": Cause.LOSS, "operation": "div"}, Code.DIVISION_BY_ZERO),
        ({"cause": Cause.LOSS, "operation": "log", "value": "-Inf"}, Code.LOGARITHM_OF_ZERO),
        ({"cause": Cause.MODULE, "operation": "sqrt", "backward": True}, Code.SLOPE_INFINITE),
        ({"cause": Cause.MODULE, "operation": "sqrt"}, Code.MODULE_CODE),
        ({"cause": Cause.MODULE, "operation": "safe_softmax"}, Code.ROW_FULLY_MASKED),
        ({"cause": Cause.LOSS, "operation": "mean"}, Code.MEAN_OF_NOTHING),
        ({"cause": Cause.LOSS, "operation": "std"}, Code.MEAN_OF_NOTHING),
        ({"cause": Cause.LOSS}, Code.LOSS_CODE),
        ({"cause": Cause.MODULE}, Code.MODULE_CODE),
    ],
)
def test_a_place_points_to_a_cause(given, code):
    assert cause_of(Localisation(**given)) is code


def test_what_is_not_known_points_to_none():
    assert cause_of(Localisation(cause=Cause.UNKNOWN)) is None


def test_every_cause_has_a_page():
    assert all(each in TEXTS for each in Code if each.family == "TM7")
