"""The first module that puts out what is not finite is named, after a step was refused."""

import math

import pytest
import torch
from torch import nn

from live.guard.training import batch, net, train
from torchmend import Guard, Policy, TrainingStoppedError
from torchmend.facts.codes import Code
from torchmend.live.guard.sensing.origins import Origins


class Root(nn.Module):
    """Puts out the root of what comes in, moved down so that some of it is NaN."""

    def forward(self, values):
        return (values - 1e3).sqrt()


def found(model, *inputs):
    sensor = Origins([model])
    sensor.open()
    model(*inputs)
    return [each.detail.split(":")[0] for each in sensor.judge(sensor.close().tolist())]


def chain(*, broken):
    return nn.Sequential(nn.Linear(4, 4), Root() if broken else nn.Identity(), nn.Linear(4, 4), nn.ReLU())


def test_the_innermost_and_earliest_module_is_named():
    model = nn.Sequential(chain(broken=False), chain(broken=True), chain(broken=True))
    assert found(model, torch.randn(2, 4)) == ["1.1"]


def test_nothing_is_found_where_all_is_finite():
    assert found(chain(broken=False), torch.randn(2, 4)) == []


def test_a_mask_is_no_origin_but_minus_inf_of_a_linear_layer_is():
    class Mask(nn.Module):
        def forward(self, scores):
            return scores.masked_fill(scores > 0, -math.inf)

    assert found(nn.Sequential(Mask(), nn.Softmax(-1)), torch.eye(3) - 1e-9) == []
    linear = nn.Linear(1, 1)
    linear.weight.data.fill_(-3e38)
    assert found(nn.Sequential(linear), torch.full((1, 1), 1e3)) == ["0"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_types_of_all_widths_are_looked_at(dtype):
    values = torch.tensor([1.0, math.nan]).to(dtype)
    assert found(nn.Sequential(nn.Identity()), values) == ["0"]


def test_one_name_is_told_once():
    model = chain(broken=True)
    sensor = Origins([model])
    told = []
    for _ in range(2):
        sensor.open()
        model(torch.randn(2, 4))
        told += sensor.judge(sensor.close().tolist())
    assert len(told) == 1
    assert sensor.first == "1"


def test_no_hook_is_left():
    model = chain(broken=True)
    found(model, torch.randn(2, 4))
    assert not any(each._forward_hooks for each in model.modules())


def test_a_run_that_is_stopped_says_where_it_began():
    model = net()
    model.conv.register_forward_hook(lambda module, inputs, output: output / 0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer, policy=Policy(most_refusals=4), localise=False) as guard:
        for seed in range(3):
            train(model, optimizer, *batch(seed))
        with pytest.raises(TrainingStoppedError, match=r"first module to put out NaN or Inf was conv\."):
            train(model, optimizer, *batch(3))
    told = [each for decision in guard.events.decisions for each in decision.findings if "conv:" in each.detail]
    assert [each.code for each in told] == [Code.GRADIENT_NOT_FINITE]


def test_healthy_steps_are_not_looked_at():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer) as guard:
        for seed in range(5):
            train(model, optimizer, *batch(seed))
            assert not model.conv._forward_hooks
        assert not guard.events.decisions
