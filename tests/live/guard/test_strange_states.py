"""What is put back, held and checked where states are not what they are in an ordinary training."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from live.guard.training import batch, kept, net, same, train
from torchmend.facts.errors import TrainingStoppedError, UserError
from torchmend.live.guard.buffers import LARGE
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


class Codebook(nn.Module):
    """A large buffer that each forward pass writes: behind autograd's back or not."""

    def __init__(self, write) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("book", torch.zeros(LARGE + 1))
        self.register_buffer("mask", torch.full((LARGE + 1,), float("-inf")))
        self.write = write

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        self.write(self.book, rows.detach().mean())
        return self.linear(rows)


@pytest.mark.parametrize(
    "write",
    [lambda book, value: book.data.mul_(0.9).add_(value), lambda book, value: book.mul_(0.9).add_(value)],
    ids=["unseen", "seen"],
)
@pytest.mark.parametrize("before", [[], [1.0], [1.0, 1.0, 1.0], [NAN, 1.0], [NAN, NAN]])
def test_a_large_buffer_is_put_back_however_it_was_written(write, before):
    model = Codebook(write)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer):
        for value in (*before, NAN):
            state = kept(model)
            optimizer.zero_grad()
            model(torch.full((2, 4), value)).sum().backward()
            optimizer.step()
        assert same(kept(model), state)


def test_a_large_buffer_that_nobody_writes_is_not_copied_each_step(monkeypatch):
    model = Codebook(lambda book, value: None)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    copied = []
    monkeypatch.setattr(torch, "_foreach_copy_", lambda into, out_of: copied.extend(out_of))
    with Guard(model, optimizer):
        for _ in range(3):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
    assert not any(tensor.numel() > LARGE for tensor in copied)


class Averaging(nn.Module):
    """Keeps an average of its inputs, which nothing that it returns depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("average", torch.zeros(4))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        self.average.lerp_(rows.mean(0), 0.1)
        return self.linear(rows.nan_to_num())


@pytest.mark.parametrize("before", [0, 1])
def test_nan_in_a_buffer_alone_is_seen_from_the_first_step_on(before):
    model = Averaging()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer) as guard:
        for value in (*[1.0] * before, NAN):
            state = kept(model)
            optimizer.zero_grad()
            model(torch.full((2, 4), value)).sum().backward()
            optimizer.step()
        assert guard.events.decisions[-1].origin == "average"
        assert same(kept(model), state)


def fill(mask: torch.Tensor) -> None:
    mask.fill_(-float("inf"))


def test_a_mask_that_the_first_step_fills_with_infinities_is_no_damage():
    model = nn.Sequential(nn.Linear(4, 4))
    model.register_buffer("mask", torch.zeros(3))
    model.register_forward_hook(lambda module, *_: fill(module.mask))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer) as guard:
        for _ in range(2):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
    assert not guard.events.decisions


def test_nor_is_one_of_another_name():
    model = nn.Sequential(nn.Linear(4, 4))
    model.register_buffer("causal", torch.zeros(3))
    model.register_forward_hook(lambda module, *_: fill(module.causal))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer, check_every=3) as guard:
        for _ in range(7):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
    assert not guard.events.decisions


class Counting(torch.optim.SGD):
    """A user's optimizer that counts in a tensor and a list of its groups."""

    def __init__(self, parameters) -> None:
        super().__init__(parameters, 0.1)
        for group in self.param_groups:
            group["taken"], group["rates"] = torch.zeros(()), []

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["taken"].add_(1)
            group["rates"].append(group["lr"])


def test_what_a_group_holds_is_put_back_in_place():
    model = net()
    optimizer = Counting(model.parameters())
    taken = optimizer.param_groups[0]["taken"]
    with Guard(model, optimizer):
        train(model, optimizer, *batch(0))
        train(model, optimizer, *batch(1, bad=NAN))
    assert optimizer.param_groups[0]["taken"] is taken
    assert float(taken) == 1.0
    assert optimizer.param_groups[0]["rates"] == [0.1]


def test_a_first_step_that_fills_a_mask_is_put_back_if_it_is_refused():
    model = Codebook(lambda book, value: book.add_(value))
    model.register_buffer("causal", torch.zeros(3))
    model.register_forward_hook(lambda module, *_: fill(module.causal))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer) as guard:
        for value in (NAN, 1.0, NAN):
            state = kept(model)
            optimizer.zero_grad()
            model(torch.full((2, 4), value)).sum().backward()
            optimizer.step()
            assert same(kept(model), state) == (value != 1.0)
        assert guard.events.counts["refuse"] == 2
