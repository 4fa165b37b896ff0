"""The periodic check repairs what can be, goes back where that helps, and stops with an explanation elsewhere."""

import json
import logging

import pytest
import torch

from live.guard.training import batch, kept, net, same, train
from torchmend.facts.errors import TrainingStoppedError, UserError
from torchmend.live.guard.guard import Guard
from torchmend.live.guard.ring import Ring

NAN = float("nan")


def start(**options):
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    return model, optimizer, Guard(model, optimizer, **options)


def test_a_healthy_run_is_said_to_be_healthy(caplog):
    model, optimizer, _ = start(check_every=2)
    with caplog.at_level(logging.INFO, "torchmend.guard"):
        for seed in range(4):
            train(model, optimizer, *batch(seed))
    assert caplog.messages == ["[HEALTH CHECK] iter 2: Model health OK", "[HEALTH CHECK] iter 4: Model health OK"]


def test_damaged_statistics_are_repaired_at_the_next_check(caplog):
    model, optimizer, guard = start(check_every=2)
    train(model, optimizer, *batch(0))
    guard.evaluation.were_sound = False  # somebody wrote to them between two steps
    model.bn.running_var[1] = -1.0
    train(model, optimizer, *batch(1))
    assert (model.bn.running_var >= 0).all()
    assert "[HEALTH CHECK] iter 2: Found 1 corrupted stats!" in caplog.messages
    assert "Auto-sanitized 1 BatchNorm statistics." in caplog.messages


def test_a_frozen_moment_is_set_free():
    model, optimizer, _ = start(check_every=2)
    train(model, optimizer, *batch(0))
    optimizer.state[model.head.weight]["exp_avg_sq"][0, 0] = float("inf")
    train(model, optimizer, *batch(1))
    assert optimizer.state[model.head.weight]["exp_avg_sq"].isfinite().all()


def test_a_moment_of_the_second_optimizer_of_a_model_is_set_free():
    model = net()
    optimizers = [torch.optim.AdamW(part.parameters(), 0.01) for part in (model.conv, model.head)]
    guard = Guard(model, optimizers)
    torch.nn.functional.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
    for optimizer in optimizers:
        optimizer.step()
    optimizers[1].state[model.head.weight]["exp_avg_sq"][0, 0] = float("inf")
    assert len(guard.check().findings) == 1
    assert optimizers[1].state[model.head.weight]["exp_avg_sq"].isfinite().all()


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), NAN])
def test_a_buffer_that_was_not_finite_from_the_start_does_not_stop_the_run(value):
    model = net()
    model.register_buffer("best_loss", torch.tensor(value))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    with Guard(model, optimizer, ring=None, check_every=1) as guard:
        for seed in range(2):
            train(model, optimizer, *batch(seed))
        assert guard.events.counts.keys() <= {"log"}
        model.head.bias.data[0] = NAN
        with pytest.raises(TrainingStoppedError, match=r"head\.bias cannot be repaired"):
            guard.check()


def test_damaged_weights_without_snapshots_stop_the_run_and_say_what_to_do():
    model, optimizer, _ = start(check_every=2, ring=None)
    train(model, optimizer, *batch(0))
    model.head.bias.data[0] = NAN
    optimizer.zero_grad()
    with pytest.raises(TrainingStoppedError, match=r"head\.bias cannot be repaired, and no snapshots are kept"):
        optimizer.step()


def test_damaged_weights_go_back_to_a_snapshot_and_say_what_it_costs(caplog):
    model, optimizer, guard = start(check_every=2, ring=Ring(every=2))
    for seed in range(2):
        train(model, optimizer, *batch(seed))
    state = kept(model, optimizer)
    train(model, optimizer, *batch(2))
    model.head.bias.data[0] = NAN
    optimizer.zero_grad()
    optimizer.step()
    assert same(kept(model, optimizer), state)
    assert guard.events.counts["roll back"] == 1
    assert "went back to step 2: 2 steps are lost" in caplog.messages


def test_going_back_restores_the_random_state():
    model, optimizer, guard = start(check_every=2, ring=Ring(every=2))
    for seed in range(2):
        train(model, optimizer, *batch(seed))
    expected = torch.get_rng_state()
    torch.rand(3)
    model.head.bias.data[0] = NAN
    guard.check()
    assert torch.equal(torch.get_rng_state(), expected)


def test_the_same_snapshot_is_not_gone_back_to_for_ever():
    model, optimizer, guard = start(check_every=2, ring=Ring(every=2, keep=1, retries=2))
    for seed in range(2):
        train(model, optimizer, *batch(seed))
    for _ in range(2):
        model.head.bias.data[0] = NAN
        guard.check()
    model.head.bias.data[0] = NAN
    with pytest.raises(TrainingStoppedError, match="going back did not help"):
        guard.check()


def closure_step(model, optimizer, seed):
    images, labels = batch(seed)

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    optimizer.step(closure)


def test_going_back_twice_finds_the_snapshot_as_it_was():
    """LBFGS keeps lists of tensors, and goes on appending to them."""
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.01, max_iter=3)
    guard = Guard(model, optimizer, ring=Ring(every=1), check_every=0)
    for seed in range(2):
        closure_step(model, optimizer, seed)
    guard.check()
    state = kept(model, optimizer)
    for _ in range(2):
        closure_step(model, optimizer, 2)
        model.head.bias.data[0] = NAN
        guard.check()
        optimizer.param_groups[0]["lr"] = 0.01  # the second return lowers it
        assert same(kept(model, optimizer), state)


def test_a_scheduler_is_of_the_same_types_after_going_back():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2, 4], 0.1)
    with Guard(model, optimizer, scheduler=scheduler, ring=Ring(every=1), check_every=1) as guard:
        train(model, optimizer, *batch(0))
        milestones = scheduler.milestones.copy()
        model.head.bias.data[0] = NAN
        guard.check()
    assert type(scheduler.milestones) is type(milestones)
    assert scheduler.milestones == milestones


def test_going_back_keeps_moments_in_a_wider_type_than_their_parameters():
    """`Optimizer.load_state_dict` would cast them: 1e-9 becomes 0 in float16."""
    model = torch.nn.Linear(3, 2).half()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, eps=1e-4)
    guard = Guard(model, optimizer, ring=Ring(every=1), check_every=0)
    model(torch.ones(2, 3).half()).float().sum().backward()
    optimizer.step()
    for state in optimizer.state.values():
        state["exp_avg_sq"] = state["exp_avg_sq"].float().fill_(1e-9)
    guard.check()
    optimizer.state[model.bias]["exp_avg_sq"].fill_(1.0)
    model.bias.data[0] = NAN
    guard.check()
    moment = optimizer.state[model.bias]["exp_avg_sq"]
    assert moment.dtype == torch.float32
    assert torch.equal(moment, torch.full((2,), 1e-9))


class Replacing(torch.nn.Module):
    """Puts another tensor where its buffer was, and counts in its extra state."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(4))
        self.register_buffer("last", None)
        self.count = 0

    def forward(self, rows):
        self.seen, self.last = self.seen + 1, rows.clone()
        self.count += 1
        return self.linear(rows)

    def get_extra_state(self):
        return {"count": self.count}

    def set_extra_state(self, state):
        self.count = state["count"]


def test_going_back_finds_buffers_that_were_replaced_since_and_extra_state():
    model = Replacing()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    guard = Guard(model, optimizer, ring=Ring(every=1), check_every=0)

    def step(rows):
        optimizer.zero_grad()
        model(rows).sum().backward()
        optimizer.step()

    step(torch.ones(2, 4))
    guard.check()
    state = kept(model)
    step(torch.ones(3, 4))
    step(torch.ones(5, 4))
    model.linear.bias.data[0] = NAN
    guard.check()
    assert same(kept(model), state)
    assert model.count == 1


def test_a_snapshot_is_taken_only_of_a_healthy_run():
    model, optimizer, guard = start(check_every=0, ring=Ring(every=1))
    train(model, optimizer, *batch(0))
    model.head.bias.data[0] = NAN
    with pytest.raises(TrainingStoppedError):
        guard.check()


def test_an_older_snapshot_is_taken_where_the_newest_may_be_too_new():
    model, optimizer, guard = start(check_every=1, ring=Ring(every=1, keep=5, lag=2))
    states = []
    for seed in range(4):
        train(model, optimizer, *batch(seed))
        states.append(kept(model, optimizer))
    model.head.bias.data[0] = NAN
    guard.check()
    assert same(kept(model, optimizer), states[1])


@pytest.mark.parametrize("fields", [{"every": 0}, {"keep": 0}, {"lag": -1}, {"retries": 0}])
def test_a_ring_without_a_meaning_is_refused(fields):
    with pytest.raises(UserError, match="it must be"):
        Ring(**fields)


def test_every_decision_is_a_line_of_json(tmp_path):
    model, optimizer, _ = start(log=tmp_path / "guard.jsonl")
    train(model, optimizer, *batch(0))
    train(model, optimizer, *batch(1, bad=NAN))
    (line,) = [json.loads(each) for each in (tmp_path / "guard.jsonl").read_text().splitlines()]
    assert (line["step"], line["action"], line["origin"]) == (1, "refuse", "bn.running_mean")


class Board:
    def __init__(self):
        self.points = []

    def add_scalar(self, name, value, step):
        self.points.append((name, step, value))


def test_tensorboard_gets_the_figures_of_every_step():
    board = Board()
    model, optimizer, _ = start(writer=board)
    train(model, optimizer, *batch(0))
    train(model, optimizer, *batch(1, bad=NAN))
    assert [(step, value) for name, step, value in board.points if name == "torchmend/refused"] == [(1, 0.0), (2, 1.0)]


def test_the_summary_says_what_was_done_and_where():
    model, optimizer, guard = start()
    train(model, optimizer, *batch(1, bad=NAN))
    assert guard.summary() == "1 steps guarded: 1 x refuse\n  1 at bn.running_mean"


def test_an_unknown_option_names_those_that_there_are():
    with pytest.raises(UserError, match=r"no option 'polcy'\. The options are policy, clip"):
        start(polcy=None)
