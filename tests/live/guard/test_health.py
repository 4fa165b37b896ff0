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
    model, optimizer, guard = start(check_every=2, ring=Ring(every=2, retries=2))
    for seed in range(2):
        train(model, optimizer, *batch(seed))
    for _ in range(2):
        model.head.bias.data[0] = NAN
        guard.check()
    model.head.bias.data[0] = NAN
    with pytest.raises(TrainingStoppedError, match="no snapshot is left to go back to"):
        guard.check()


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
