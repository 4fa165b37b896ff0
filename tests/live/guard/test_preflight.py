"""Before the first step: what will go wrong is said, and what is ordinary is not."""

import copy

import pytest
import torch
from torch import nn

from live.guard.training import batch, net, train
from torchmend import Action, Guard
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_trained_in_half_precision_are_risky(dtype):
    model = nn.Sequential(nn.Linear(3, 3)).to(dtype)
    assert any("without a copy in float32" in each for each in details(model, torch.optim.SGD(model.parameters(), 0.1)))


def test_frozen_weights_in_half_precision_are_not():
    model = nn.Sequential(nn.Linear(3, 3).half().requires_grad_(False), nn.Linear(3, 3))
    assert details(model, torch.optim.SGD(model.parameters(), 0.1)) == []


def trained():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    train(model, optimizer, *batch(0))
    return model, optimizer


def starve(state):
    for moments in state["state"].values():
        moments["exp_avg_sq"].flatten()[0] = 0
        moments["exp_avg"].flatten()[0] = 0.5
    return state


def test_moments_that_half_precision_starved_begin_anew():
    model, optimizer = trained()
    starve({"state": optimizer.state})
    kept = optimizer.state[model.conv.weight]["exp_avg"].clone()
    with Guard(model, optimizer) as guard:
        (decision,) = guard.events.decisions
    assert decision.action is Action.REPAIR
    assert [each.code for each in decision.findings] == [Code.MOMENT_NARROW]
    first = optimizer.state[model.conv.weight]["exp_avg"]
    assert first.flatten()[0] == 0
    assert torch.equal(first.flatten()[1:], kept.flatten()[1:])


def test_so_do_those_of_a_state_that_is_loaded_later():
    model, optimizer = trained()
    state = starve(copy.deepcopy(optimizer.state_dict()))
    with Guard(model, optimizer) as guard:
        optimizer.load_state_dict(state)
        assert guard.events.counts["repair"] == 1
    assert all(moments["exp_avg"].flatten()[0] == 0 for moments in optimizer.state.values())


def test_one_who_observes_only_says_so_and_changes_nothing():
    model, optimizer = trained()
    starve({"state": optimizer.state})
    with Guard(model, optimizer, observe_only=True) as guard:
        assert len(guard.events.decisions) == 1
    assert all(moments["exp_avg"].flatten()[0] == 0.5 for moments in optimizer.state.values())


def test_moments_that_are_zero_together_are_ordinary():
    model, optimizer = trained()
    for moments in optimizer.state.values():
        moments["exp_avg_sq"].flatten()[0] = moments["exp_avg"].flatten()[0] = 0
    with Guard(model, optimizer) as guard:
        assert not guard.events.decisions
