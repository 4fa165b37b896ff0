"""The cost is measured without a trace in the model."""

import copy

import pytest
import torch
from torch import nn

import torchmend
from overflowing import batch_norm, rms


def test_the_cost_is_measured_on_request():
    model, batch = rms()
    handle = torchmend.stabilise(model, batch=batch, measure=True)
    assert handle.cost.pairs >= 5
    assert min(handle.cost.seconds_before, handle.cost.seconds_after, handle.cost.ratio) > 0
    assert "cost: " in str(handle)
    assert torchmend.stabilise(model, batch=batch).cost is None


def test_what_is_kept_for_the_backward_pass_is_counted():
    model, batch = nn.Sequential(nn.Linear(32, 32, bias=False)), torch.rand(16, 32)
    cost = torchmend.stabilise(model, modules="0", batch=batch, measure=True, loss=lambda output: output.sum()).cost
    assert (cost.bytes_before, cost.bytes_after) == (16 * 32 * 2, 16 * 32 * 4)


def test_measuring_changes_nothing():
    model, batch = batch_norm()
    model.append(nn.Dropout(0.5))
    model[3].weight.grad = torch.full_like(model[3].weight, 3.0)
    before, kept = copy.deepcopy(model.state_dict()), model[3].weight.grad
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    torchmend.stabilise(model, batch=batch, measure=True)
    assert torch.equal(torch.rand(3), wanted)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert model.training
    assert model[3].weight.grad is kept
    assert (kept == 3).all()
    assert model[0].weight.grad is None


def test_measuring_needs_a_batch():
    with pytest.raises(torchmend.UserError, match=r"measure=True runs the model. Pass batch= too"):
        torchmend.stabilise(nn.Linear(3, 3), measure=True)


def test_an_output_without_tensors_needs_a_loss():
    class Silent(nn.Module):
        def forward(self, rows):
            return "nothing"

    with pytest.raises(torchmend.UserError, match=r"A str has no tensors to take a loss of. Pass loss="):
        torchmend.stabilise(Silent(), batch=torch.rand(3), measure=True)


def test_a_frozen_model_is_measured_without_a_backward_pass():
    model, batch = rms()
    model.requires_grad_(False)
    cost = torchmend.stabilise(model, batch=batch, measure=True).cost
    assert cost.ratio > 0
    assert cost.bytes_after == 0
