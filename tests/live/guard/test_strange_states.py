"""What is put back, held and checked where states are not what they are in an ordinary training."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from live.guard.training import batch, kept, net, same, train
from torchmend.facts.errors import TrainingStoppedError, UserError
from torchmend.live.guard.clipping import Clip
from torchmend.live.guard.guard import Guard
from torchmend.live.guard.policy import Policy
from torchmend.live.guard.ring import Ring

NAN = float("nan")


class Replacing(nn.Module):
    """A layer that puts another tensor where its buffer was."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.how = how
        self.register_buffer("seen", None if how == "first" else torch.zeros(1, 4))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        self.seen = {"first": rows.mean(0), "input": rows[:1], "longer": torch.cat([rows, rows])}[self.how]
        return self.linear(rows)


@pytest.mark.parametrize("how", ["first", "input", "longer"])
def test_a_buffer_that_was_replaced_is_put_back_and_its_replacement_left_alone(how):
    model = Replacing(how)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    rows = torch.ones(3, 4)
    rows[2] = NAN
    before = rows.clone()
    with Guard(model, optimizer):
        state = kept(model)
        model(rows).sum().backward()
        optimizer.step()
        assert same(kept(model), state)
        assert same(rows, before)


def test_statistics_are_put_back_though_the_model_was_converted_after_a_dry_run():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    images, labels = batch(0, bad=NAN)
    with Guard(model, optimizer):
        state = kept(model)
        model(batch(1)[0])
        model.double()
        functional.cross_entropy(model(images.double()), labels).backward()
        optimizer.step()
        assert same(model.bn.running_mean.float(), state[0]["bn.running_mean"])


class Named(NamedTuple):
    mean: torch.Tensor
    count: int


class Remembering(torch.optim.SGD):
    """A user's optimizer whose state is a named tuple."""

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            before = self.state[parameter].get("seen", Named(torch.zeros_like(parameter), 0))
            self.state[parameter]["seen"] = Named(before.mean.add_(1), before.count + 1)


def test_an_optimizer_whose_state_is_a_named_tuple_is_put_back():
    model = net()
    optimizer = Remembering(model.parameters(), 0.1)
    with Guard(model, optimizer, ring=Ring(every=1), check_every=1):
        train(model, optimizer, *batch(0))
        train(model, optimizer, *batch(1, bad=NAN))
        seen = optimizer.state[model.head.bias]["seen"]
        assert (float(seen.mean[0]), seen.count) == (1.0, 1)


def test_going_back_restores_the_learning_rate_that_a_scheduler_goes_on_from():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    with Guard(model, optimizer, scheduler=scheduler, ring=Ring(every=2, keep=1), check_every=2) as guard:
        for seed in range(3):
            train(model, optimizer, *batch(seed))
            scheduler.step()
        with torch.no_grad():
            model.conv.weight[0] = NAN
        guard.check()
    assert (scheduler.last_epoch, optimizer.param_groups[0]["lr"]) == (1, 0.5)


def test_an_average_that_is_updated_twice_a_step_is_held_twice():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    average = AveragedModel(model)
    with Guard(model, optimizer, ema=average):
        for bad in (None, NAN):
            train(model, optimizer, *batch(0, bad=bad))
            average.update_parameters(model)
            average.update_parameters(model)
    assert int(average.n_averaged) == 2


def test_statistics_that_were_damaged_before_the_guard_was_made_do_not_refuse_steps():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.bn.running_mean[0] = NAN
    with Guard(model, optimizer) as guard:
        train(model, optimizer, *batch(0))
        assert guard.events.counts["refuse"] == 0
        assert bool(model.bn.running_mean.isfinite().all())


def test_statistics_that_are_sound_again_are_watched_again():
    model = net()
    with Guard(model, torch.optim.SGD(model.parameters(), 0.1), observe_only=True) as guard:
        model.bn.running_mean[0] = NAN
        guard.evaluation.check()
        model.bn.running_mean[0] = 0.0
        guard.evaluation.check()
        assert guard.evaluation.were_sound


def test_frozen_statistics_are_not_checked_at_each_step(monkeypatch):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer) as guard:
        model.bn.eval()
        checks = []
        monkeypatch.setattr(guard.evaluation, "check", lambda: checks.append(1))
        for seed in range(3):
            train(model, optimizer, *batch(seed))
        assert checks == []


@pytest.mark.parametrize("loss", [torch.ones(2), 1.0])
def test_a_loss_that_is_not_one_number_is_an_error_where_it_is_told(loss):
    model = net()
    with Guard(model, torch.optim.SGD(model.parameters(), 0.1)) as guard, pytest.raises(UserError, match="The loss is"):
        guard.observe(loss)


def test_detaching_after_a_refusal_leaves_nothing_to_step_with():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    guard = Guard(model, optimizer)
    train(model, optimizer, *batch(0))
    state = kept(model, optimizer)
    images, labels = batch(1, bad=NAN)
    optimizer.zero_grad()
    functional.cross_entropy(model(images), labels).backward()
    guard.detach()
    optimizer.step()
    assert same(kept(model, optimizer), state)


def closure_of(model, optimizer, batches):
    def closure():
        images, labels = next(batches)
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    return closure


def test_gradients_of_a_closure_are_clipped():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    before = model.conv.weight.detach().clone()
    with Guard(model, optimizer, clip=Clip(limit=1e-6)):
        optimizer.step(closure_of(model, optimizer, iter([batch(0)])))
    assert float((model.conv.weight - before).detach().abs().max()) < 1e-5


def test_a_run_that_is_stopped_inside_a_closure_leaves_the_weights_as_they_were():
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1)
    with Guard(model, optimizer, policy=Policy(most_refusals=1)):
        state = kept(model, optimizer)
        with pytest.raises(TrainingStoppedError):
            optimizer.step(closure_of(model, optimizer, iter([batch(0), batch(0), batch(0, bad=NAN)])))
        assert same(kept(model, optimizer), state)
