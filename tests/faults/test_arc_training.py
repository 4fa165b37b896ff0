"""arc-training is used where it is installed, and said to be missing where it is not."""

from importlib.util import find_spec

import pytest

from benchmarks.faults.arc_training import ArcTraining
from benchmarks.faults.protections import CannotRunError
from benchmarks.faults.training import Act, run
from fault_scores import tiny

INSTALLED = find_spec("arc") is not None


@pytest.mark.skipif(INSTALLED, reason="it is installed here")
def test_where_it_is_missing_that_is_said():
    with pytest.raises(CannotRunError, match="make faults"):
        ArcTraining(tiny(2))


@pytest.mark.skipif(not INSTALLED, reason="it is not installed here; `make faults` does it")
@pytest.mark.filterwarnings("ignore")
def test_a_step_with_nan_gradients_is_left_out():
    training = tiny(5, bad=3)
    outcome = run(training, ArcTraining(training))
    assert Act.REFUSE in [each.act for each in outcome.events]
    assert outcome.finite
