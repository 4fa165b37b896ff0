"""Changes are tried on the failing batch, and the one that helps is named."""

import pytest
import torch

from live.forensics.faults import FAULTS
from live.forensics.runs import incident_of, into
from torchmend.live.forensics.incidents import Kind
from torchmend.live.forensics.patches import patch_for

HELP = {
    "nan_in_the_batch": (Kind.EXAMPLES, "leave example 5 out"),
    "outlier": (Kind.EXAMPLES, "leave example 5 out"),
    "zero_vector_in_the_loss": (Kind.OPERATION, "keep the divisor of div away from zero, by 1e-06 at faults.py:"),
    "log_of_zero_in_the_loss": (Kind.OPERATION, "keep what log gets above 1e-06 at faults.py:"),
    "distance_of_zero_in_the_loss": (Kind.OPERATION, "keep what sqrt gets above 1e-06 at faults.py:"),
    "root_of_zero_backward": (Kind.OPERATION, "keep what sqrt gets above 1e-06 at faults.py:"),
    "projection_never_called": (
        Kind.MODULE_IN_FLOAT32, 'run inner, head in float32: torchmend.stabilise(model, modules=["inner", "head"])',
    ),
    "linear_in_float16": (Kind.MODULE_IN_FLOAT32, 'run 1 in float32: torchmend.stabilise(model, modules=["1"])'),
    "exponential": (Kind.OPERATION, "bound what exp gets at faults.py:"),
    "random_mask": (Kind.OPERATION, "keep the divisor of div away from zero, by 1e-06 at faults.py:"),
    "spectrum_in_float16": (Kind.EXAMPLES, "leave example 5 out"),
    "loss_inside_of_the_model": (Kind.OPERATION, "keep the divisor of div away from zero, by 1e-06 at faults.py:"),
}  # fmt: skip


def incident(name):
    steps = (True,) * 6 if name == "random_mask" else (False, False, True)
    return incident_of(into(FAULTS[name], loss=True, steps=steps)[1])


@pytest.mark.parametrize("name", HELP)
def test_the_smallest_change_that_helps_is_named(name):
    found = incident(name)
    *before, last = found.remedies
    assert (last.kind, last.helped) == (HELP[name][0], True)
    assert last.change.startswith(HELP[name][1])
    assert not any(each.helped for each in before)
    assert f"{last.change} (tried on this batch: it helps)" in str(found)


@pytest.mark.parametrize("name", ["weight_poisoned", "weight_norm_of_zero"])
def test_where_nothing_helps_the_advice_is_that_of_the_cause(name):
    found = incident(name)
    assert not any(each.helped for each in found.remedies)
    assert "tried on this batch" not in str(found)
    assert "  change   " in str(found)


def test_a_cast_by_hand_is_not_undone_by_running_the_module_in_float32():
    found = incident("spectrum_in_float16")
    assert [each.kind for each in found.remedies if not each.helped] == [
        Kind.MODULE_IN_FLOAT32, Kind.OTHER_TYPE, Kind.OTHER_TYPE,
    ]  # fmt: skip
    assert "no help" in str(found)


@pytest.mark.parametrize("name", ["linear_in_float16", "root_of_zero_backward"])
def test_nothing_of_what_was_tried_is_left(name):
    model, _ = into(FAULTS[name], loss=True)
    assert not any("forward" in vars(each) or type(each).__module__ == "" for each in model.modules())
    assert not any(each._forward_pre_hooks or each._forward_hooks for each in model.modules())
    assert torch.overrides._get_current_function_mode_stack() == []


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("sqrt", torch.sqrt),
        ("log", torch.Tensor.log),
        ("reciprocal", lambda zero: 1.0 / (zero * 1.0)),
        ("div", lambda zero: torch.ones(2) / zero),
        ("reciprocal", torch.Tensor.reciprocal),
        ("rsqrt", torch.rsqrt),
        ("acos", lambda zero: (zero + 1).acos()),
        ("exp", lambda zero: (zero + 1e3).exp()),
        ("softmax", lambda zero: torch.softmax(zero - float("inf"), -1)),
        ("linalg_vector_norm", torch.Tensor.norm),
        ("pow", lambda zero: zero.pow(0.5)),
    ],
)
def test_a_patch_makes_value_and_slope_finite(operation, call):
    zero = torch.zeros(2, requires_grad=True)
    safe, words = patch_for(operation)
    with safe:
        value = call(zero)
    value.sum().backward()
    assert value.isfinite().all()
    assert zero.grad.isfinite().all()
    assert operation in words or operation == "linalg_vector_norm"


def test_of_other_operations_no_patch_is_known():
    assert patch_for("addmm") is None
