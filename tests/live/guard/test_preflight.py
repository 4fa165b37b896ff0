"""Before the first step: what will go wrong is said, and what is ordinary is not."""

import pytest
import torch
from torch import nn

from live.guard.training import net
from torchmend.facts.codes import Code
from torchmend.live.guard.preflight import inspect


def details(model, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1)
    return [finding.detail or finding.place for finding in inspect([model], [optimizer])]


def test_an_ordinary_model_is_passed():
    assert details(net()) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_statistics_that_are_not_finite_are_found(bad):
    model = net()
    model.bn.running_mean[0] = bad
    assert details(model) == ["bn.running_mean"]


def test_a_negative_variance_is_found():
    model = net()
    model.bn.running_var[0] = -1
    (finding,) = inspect([model], [])
    assert finding.code is Code.VARIANCE_NEGATIVE


def test_a_large_momentum_is_risky():
    model = net()
    model.bn.momentum = 0.9
    assert "a momentum of 0.9" in details(model)[0]


def test_a_cumulative_average_is_not():
    model = net()
    model.bn.momentum = None
    assert details(model) == []


def test_statistics_in_half_precision_are_risky():
    model = nn.Sequential(nn.BatchNorm1d(3).half())
    assert any("running statistics in float16" in each for each in details(model))


def test_a_frozen_layer_that_still_learns_statistics_is_risky():
    model = net()
    model.bn.requires_grad_(False)
    assert "its weights are frozen" in details(model)[0]
    model.bn.eval()
    assert details(model) == []


@pytest.mark.parametrize(
    ("kind", "eps", "risky"), [("half", 1e-8, True), ("half", 1e-3, False), ("float", 1e-8, False)]
)
def test_an_epsilon_that_is_zero_in_the_parameters_type_is_risky(kind, eps, risky):
    model = getattr(nn.Linear(3, 2), kind)()
    found = details(model, torch.optim.Adam(model.parameters(), eps=eps))
    assert any("is zero in float16" in each for each in found) == risky
