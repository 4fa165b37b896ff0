"""Anomaly mode ends a run, and names an operation."""

import pytest
import torch

from benchmarks.faults.anomaly import Anomaly, named
from benchmarks.faults.places import Told
from benchmarks.faults.training import Act, run
from fault_scores import tiny


def test_the_operation_is_read_from_the_error():
    error = RuntimeError("Function 'LogSoftmaxBackward0' returned nan values in its 0th output.")
    words = "Function 'LogSoftmaxBackward0' returned nan values"
    assert named(error, 3) == Told(step=3, operation="log_softmax", backward=True, words=words)


def test_other_errors_name_nothing():
    assert named(RuntimeError("element 0 of tensors does not require grad"), 3) is None


@pytest.mark.filterwarnings("ignore:Error detected in:UserWarning")
def test_the_first_nan_of_a_backward_pass_ends_the_run():
    training = tiny(5, bad=2)
    outcome = run(training, Anomaly(training))
    assert [(each.step, each.act) for each in outcome.events] == [(2, Act.STOP)]
    assert [each.operation for each in outcome.told] == ["mul"]
    assert outcome.finite


def test_it_is_switched_off_at_the_end():
    training = tiny(2)
    run(training, Anomaly(training))
    assert not torch.is_anomaly_enabled()
