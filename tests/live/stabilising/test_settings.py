"""BatchNorm and optimizers get settings under which nothing is divided by almost zero."""

import pytest
import torch
from torch import nn

import torchmend
from torchmend.live.guard.preflight import inspect


def test_batchnorm_is_told_with_what_it_was():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    (change,) = torchmend.stabilise(model).changes
    assert (change.kind, change.place) == ("norm", "1")
    assert (change.before, change.after) == ("momentum 0.1, eps 1e-05", "momentum 0.01, eps 0.001")
    assert str(change).startswith("1: momentum 0.1, eps 1e-05 -> momentum 0.01, eps 0.001: one batch moves")


def test_batchnorm_gets_what_is_asked_for_or_stays():
    model = nn.Sequential(nn.BatchNorm1d(4))
    assert torchmend.stabilise(model, norms=False).changes == ()
    torchmend.stabilise(model, momentum=None, eps=1e-2)
    assert (model[0].momentum, model[0].eps) == (None, 1e-2)


def test_a_momentum_out_of_range_is_refused_and_changes_nothing():
    model = nn.Sequential(nn.BatchNorm1d(4))
    with pytest.raises(torchmend.UserError, match="momentum is 3"):
        torchmend.stabilise(model, momentum=3)
    assert model[0].momentum == 0.1


def adam(dtype, eps=1e-8, kind=torch.optim.Adam):
    model = nn.Linear(4, 2).to(dtype)
    return model, kind(model.parameters(), 1e-3, eps=eps)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_an_epsilon_that_float16_cannot_hold_becomes_one_that_it_can(kind):
    model, optimizer = adam(torch.float16, kind=kind)
    assert [each for each in inspect([], [optimizer]) if "eps" in each.detail]
    (change,) = torchmend.stabilise(model, optimizer).changes
    assert (change.kind, change.place) == ("eps", f"{kind.__name__}, group 0")
    assert (change.before, change.after) == ("eps 1e-08", "eps 0.0001")
    assert not [each for each in inspect([], [optimizer]) if "eps" in each.detail]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_epsilon_that_the_type_can_hold_stays(dtype):
    model, optimizer = adam(dtype)
    assert torchmend.stabilise(model, optimizer).changes == ()


def test_a_step_that_was_nan_is_none_any_more():
    def step(optimizer, model):
        for each in model.parameters():
            each.grad = torch.zeros_like(each)
        optimizer.step()
        return all(bool(each.isfinite().all()) for each in model.parameters())

    model, optimizer = adam(torch.float16)
    assert not step(optimizer, model)
    model, optimizer = adam(torch.float16)
    torchmend.stabilise(model, optimizer)
    assert step(optimizer, model)


def test_several_optimizers_and_groups_are_undone():
    model, optimizer = adam(torch.float16)
    other = torch.optim.SGD(model.parameters(), 0.1)
    optimizer.add_param_group({"params": [torch.zeros(2, requires_grad=True)]})
    with torchmend.stabilise(model, [optimizer, other]):
        assert [group["eps"] for group in optimizer.param_groups] == [1e-4, 1e-8]
    assert [group["eps"] for group in optimizer.param_groups] == [1e-8, 1e-8]


def test_undo_finds_the_groups_of_a_state_that_was_loaded_since():
    model, optimizer = adam(torch.float16)
    handle = torchmend.stabilise(model, optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    handle.undo()
    assert optimizer.param_groups[0]["eps"] == 1e-8
