"""Groups of parameters and the learning rate."""

import math

import pytest
import torch
from torch import nn

from wavessm_x.config import ConfigError
from wavessm_x.optim import make_optimizer, make_scheduler


class Scan(nn.Module):
    """Parameters of each kind."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.GroupNorm(1, 4)
        self.odd = nn.LayerNorm((4, 4))
        self.A_log = nn.Parameter(torch.ones(4, 2))
        self.D = nn.Parameter(torch.ones(4, 1))
        self.skip_scale = nn.Parameter(torch.ones(1, 1, 4))
        self.bias_table = nn.Parameter(torch.ones(4, 4))
        self.scales = nn.ModuleList([nn.Linear(4, 4)])
        self.frozen = nn.Parameter(torch.ones(4, 4), requires_grad=False)


def names_of(group, model):
    wanted = {id(each) for each in group["params"]}
    return {name for name, each in model.named_parameters() if id(each) in wanted}


def test_only_weights_of_layers_decay():
    model = Scan()
    decayed, plain = make_optimizer(model, 1e-4, 0.1).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert names_of(decayed, model) == {"conv.weight", "scales.0.weight"}
    assert names_of(plain, model) == {
        "conv.bias", "norm.weight", "norm.bias", "odd.weight", "odd.bias",
        "A_log", "D", "skip_scale", "bias_table", "scales.0.bias",
    }  # fmt: skip


def test_without_gradients_only_what_decays_moves_at_a_step_of_zero_gradients():
    model = Scan()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for each in model.parameters():
        each.grad = torch.zeros_like(each)
    make_optimizer(model, 0.1, 0.5).step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"conv.weight", "scales.0.weight"}


def test_shared_weights_are_given_once():
    model = Scan()
    model.again = model.conv
    count = sum(len(group["params"]) for group in make_optimizer(model, 1e-4, 0.1).param_groups)
    assert count == sum(each.requires_grad for each in model.parameters())


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ConfigError, match="no trainable parameters"):
        make_optimizer(Scan().requires_grad_(False), 1e-4, 0.1)


def rates(num_iter, lr=1e-3):
    optimizer = make_optimizer(nn.Linear(2, 2), lr, 0.1)
    scheduler = make_scheduler(optimizer, num_iter)
    found = []
    for _ in range(num_iter):
        assert len({group["lr"] for group in optimizer.param_groups}) == 1
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("num_iter", "warmup"), [(300, 10), (3000, 100), (33000, 1000)])
def test_the_rate_rises_linearly_then_falls_as_a_cosine_to_a_millionth(num_iter, warmup):
    found = rates(num_iter)
    assert found[0] == pytest.approx(1e-5)
    assert found[warmup // 2] == pytest.approx(1e-3 * (0.01 + 0.99 * (warmup // 2) / warmup))
    assert found[warmup] == pytest.approx(1e-3)
    middle = warmup + (num_iter - 1 - warmup) // 4
    turned = (1 + math.cos(math.pi * (middle - warmup) / (num_iter - 1 - warmup))) / 2
    assert found[middle] == pytest.approx(1e-6 + (1e-3 - 1e-6) * turned)
    assert found[-1] == pytest.approx(1e-6)
    assert max(found) == found[warmup]


@pytest.mark.parametrize("num_iter", [1, 2, 29, 30])
def test_the_shortest_trainings_have_rates_too(num_iter):
    found = rates(num_iter)
    assert min(found) >= 1e-6 * (1 - 1e-9)
    assert max(found) <= 1e-3


def test_a_rate_below_the_last_one_stays():
    assert rates(20, lr=1e-7) == pytest.approx([1e-7] * 20)


@pytest.mark.parametrize("stop", [0, 5, 60])
def test_a_resumed_schedule_goes_on_exactly(stop):
    whole = rates(120)
    first = make_optimizer(nn.Linear(2, 2), 1e-3, 0.1)
    schedule = make_scheduler(first, 120)
    for _ in range(stop):
        first.step()
        schedule.step()
    second = make_optimizer(nn.Linear(2, 2), 1e-3, 0.1)
    resumed = make_scheduler(second, 120)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    found = []
    for _ in range(stop, 120):
        found.append(second.param_groups[0]["lr"])
        second.step()
        resumed.step()
    assert found == whole[stop:]


def test_a_resumed_training_can_be_made_longer():
    first = make_optimizer(nn.Linear(2, 2), 1e-3, 0.1)
    schedule = make_scheduler(first, 60)
    for _ in range(59):
        first.step()
        schedule.step()
    longer = make_scheduler(make_optimizer(nn.Linear(2, 2), 1e-3, 0.1), 600)
    longer.load_state_dict(schedule.state_dict())
    longer.optimizer.step()
    longer.step()
    assert longer.get_last_lr()[0] == pytest.approx(rates(600)[60])
