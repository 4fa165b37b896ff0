"""What the guard does about a run that diverges, and about what only a closer look shows."""

import json
import logging

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, MultiStepLR, OneCycleLR, SequentialLR, StepLR
from torch.optim.swa_utils import AveragedModel

from live.guard.training import batch, kept, net, same, train
from torchmend.facts.codes import Code
from torchmend.facts.errors import TrainingStoppedError, UserError
from torchmend.live.guard.decisions import Action
from torchmend.live.guard.guard import Guard
from torchmend.live.guard.policy import Policy
from torchmend.live.guard.rates import lower
from torchmend.live.guard.ring import Ring
from torchmend.live.guard.sensing.catalogue import COSTS, Sensor

NAN, INF = float("nan"), float("inf")


def start(**options):
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    return model, optimizer, Guard(model, optimizer, **options)


# Divergence


def test_a_run_that_diverges_goes_back_with_a_smaller_learning_rate_and_ends_well():
    """Gradient descent on a parabola diverges above a rate of 1; half of it converges."""
    torch.manual_seed(0)
    weights = nn.Linear(1, 64, bias=False)
    optimizer = torch.optim.SGD(weights.parameters(), 0.1)
    with Guard(weights, optimizer) as guard:
        for step in range(400):
            if step == 60:
                optimizer.param_groups[0]["lr"] = 1.2
            optimizer.zero_grad()
            loss = (weights(torch.ones(1, 1)) - torch.randn(64)).square().sum()
            guard.observe(loss).backward()
            optimizer.step()
        assert guard.events.counts["roll back"] >= 1
    assert loss.item() < 200


def test_refused_again_and_again_goes_back_and_then_stops():
    model, optimizer, guard = start(policy=Policy(most_refusals=3))
    train(model, optimizer, *batch(0))
    state = kept(model, optimizer)
    for seed in range(3):
        train(model, optimizer, *batch(seed, bad=NAN))
    assert guard.events.counts["roll back"] == 1
    assert same(kept(model), state[:1])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.005)
    for seed in range(2):
        train(model, optimizer, *batch(seed, bad=NAN))
    with pytest.raises(TrainingStoppedError, match="so the fault is in the set-up"):
        train(model, optimizer, *batch(2, bad=NAN))


def test_no_snapshot_is_kept_while_steps_are_refused():
    """Flipped bits leave weights finite, and every step overflows: a snapshot of that would be no way back."""
    model, optimizer, guard = start(policy=Policy(most_refusals=4), ring=Ring(every=5))
    for seed in range(8):
        train(model, optimizer, *batch(seed))
    model.head.weight.data.fill_(3e38)
    for seed in range(8, 12):
        train(model, optimizer, *batch(seed))
    assert guard.events.counts["roll back"] == 1
    assert model.head.weight.abs().max() < 10


def test_going_back_to_the_same_snapshot_lowers_the_rate_further_each_time():
    model, optimizer, guard = start(ring=Ring(every=1000))
    train(model, optimizer, *batch(0))
    rates = []
    for _ in range(3):
        model.head.bias.data[0] = NAN
        guard.check()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [0.01, pytest.approx(0.0025), pytest.approx(0.000625)]


def test_an_older_snapshot_is_taken_when_the_newest_did_not_help():
    model, optimizer, guard = start(ring=Ring(every=5, keep=2, retries=1), check_every=5)
    for seed in range(12):
        train(model, optimizer, *batch(seed))
        if seed == 4:
            fifth = kept(model)
    for _ in range(2):
        model.head.bias.data[0] = NAN
        guard.check()
    assert same(kept(model), fifth)
    model.head.bias.data[0] = NAN
    with pytest.raises(TrainingStoppedError, match="going back did not help"):
        guard.check()


def test_a_callback_may_have_a_run_go_back_where_it_would_have_refused():
    def harder(decision):
        return None if decision.action is not Action.REFUSE else type(decision)(action=Action.ROLL_BACK, step=3)

    model, optimizer, _ = start(on_decision=harder)
    train(model, optimizer, *batch(0))
    state = kept(model, optimizer)
    train(model, optimizer, *batch(1))
    train(model, optimizer, *batch(2, bad=NAN))
    assert same(kept(model, optimizer), state)


def test_going_back_is_a_stop_where_no_snapshots_are_kept():
    def harder(decision):
        return None if decision.action is not Action.REFUSE else type(decision)(action=Action.ROLL_BACK, step=0)

    model, optimizer, _ = start(on_decision=harder, ring=None)
    with pytest.raises(TrainingStoppedError, match="no snapshots are kept"):
        train(model, optimizer, *batch(0, bad=NAN))


def test_snapshots_of_a_model_are_dropped_when_another_state_is_loaded():
    model, optimizer, guard = start()
    other = net(1).state_dict()
    train(model, optimizer, *batch(0))
    model.load_state_dict(other)
    model.head.bias.data[0] = NAN
    with pytest.raises(TrainingStoppedError, match="no snapshot is left"):
        guard.check()


def test_snapshots_that_would_take_too_much_are_not_kept(caplog):
    start(ring=Ring(most_bytes=100))
    assert "No snapshots are kept to go back to" in caplog.text


# Learning rates


@pytest.mark.parametrize(
    "make",
    [
        lambda o: StepLR(o, 3, 0.5),
        lambda o: CosineAnnealingLR(o, 10),
        lambda o: LambdaLR(o, lambda epoch: 0.9**epoch),
        lambda o: MultiStepLR(o, [2, 4]),
        lambda o: OneCycleLR(o, 1.0, total_steps=12),
        lambda o: SequentialLR(o, [StepLR(o, 1, 0.9), CosineAnnealingLR(o, 10)], [3]),
    ],
    ids=["step", "cosine", "lambda", "milestones", "one cycle", "sequence"],
)
def test_a_schedule_goes_on_in_proportion(make):
    rates = []
    for factor in (1.0, 0.5):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.4)
        scheduler = make(optimizer)
        optimizer.step()
        scheduler.step()
        lower([optimizer], [scheduler], factor)
        seen = []
        for _ in range(8):
            optimizer.step()
            scheduler.step()
            seen.append(optimizer.param_groups[0]["lr"])
        rates.append(seen)
    assert rates[1] == pytest.approx([0.5 * each for each in rates[0]])


def test_milestones_are_what_they_were_after_going_back():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    scheduler = MultiStepLR(optimizer, [2, 4], 0.5)
    with Guard(model, optimizer, scheduler=scheduler, check_every=1, ring=Ring(every=1)) as guard:
        train(model, optimizer, *batch(0))
        scheduler.step()
        model.head.bias.data[0] = NAN
        guard.check()
        rates = []
        for seed in range(4):
            train(model, optimizer, *batch(seed))
            scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1.0, 0.5, 0.5, 0.25]


def test_a_rate_that_is_a_tensor_is_lowered_where_it_lies():
    rate = torch.tensor(0.5)
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], rate)
    lower([optimizer], [], 0.5)
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == 0.25


# Suspicion


def test_weights_that_went_bad_are_found_at_the_first_step_that_they_spoil():
    model, optimizer, guard = start(check_every=1000)
    train(model, optimizer, *batch(0))
    state = kept(model, optimizer)
    for seed in range(15):
        train(model, optimizer, *batch(seed))
    model.conv.weight.data[0, 0, 0, 0] = NAN
    train(model, optimizer, *batch(2))
    assert guard.events.counts["refuse"] == 1
    assert guard.events.counts["roll back"] == 1
    assert same(kept(model, optimizer), state)


def test_a_second_moment_that_overflowed_is_set_free_in_the_same_step():
    """Its gradients are finite, and their squares are not: the weight would never move again."""
    model = nn.Linear(4, 1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with Guard(model, optimizer) as guard:
        for size in [*[1.0] * 15, 1e21]:
            optimizer.zero_grad()
            model(torch.full((1, 4), size)).sum().backward()
            optimizer.step()
        assert all(each["exp_avg_sq"].isfinite().all() for each in optimizer.state.values())
        assert guard.events.counts["repair"] == 1


# Averages


@pytest.mark.parametrize("use_buffers", [True, False])
def test_an_average_that_went_bad_takes_those_elements_from_the_model(use_buffers, caplog):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    average = AveragedModel(model, use_buffers=use_buffers)
    with Guard(model, optimizer, ema=average, check_every=2) as guard:
        for seed in range(2):
            train(model, optimizer, *batch(seed))
            average.update_parameters(model)
            if seed == 0:
                before = average.module.head.weight.detach().clone()
                average.module.head.weight.data[0, 0] = NAN
    assert average.module.head.weight.isfinite().all()
    assert not torch.equal(average.module.head.weight[1:], model.head.weight[1:])
    assert not torch.equal(average.module.head.weight[1:], before[1:])
    assert guard.events.counts["repair"] == 1
    assert guard.events.decisions[0].findings[0].code.value.startswith("TM")


class Ema:
    """An average as users write them."""

    def __init__(self, model: nn.Module) -> None:
        self.module = net(1)
        self.module.load_state_dict(model.state_dict())

    def update(self, model: nn.Module) -> None:
        for mine, other in zip(self.module.parameters(), model.parameters(), strict=True):
            mine.data.lerp_(other.data, 0.1)

    def state_dict(self):
        return self.module.state_dict()

    def load_state_dict(self, state):
        self.module.load_state_dict(state)


def test_an_average_of_the_user_s_own_kind_is_looked_after_too():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    average = Ema(model)
    average.module.conv.weight.data[0] = INF
    with Guard(model, optimizer, ema=average, check_every=1):
        train(model, optimizer, *batch(0))
    assert average.module.conv.weight.isfinite().all()
    assert torch.equal(average.module.conv.weight[0], model.conv.weight[0])


# Which sensors look


def test_every_sensor_has_a_cost_class():
    assert set(COSTS) == set(Sensor)


def test_a_sensor_that_is_left_out_does_not_look():
    model, optimizer, guard = start(sensors=["gradients"])
    images, labels = batch(0)
    model.bn.running_var.fill_(1e38)
    model.bn.momentum = 1.0
    model(images * 1e20)
    functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    assert guard.summary() == "1 steps guarded: nothing to do"


def test_an_unknown_sensor_names_those_that_there_are():
    with pytest.raises(UserError, match=r"'gradient' is not a valid Sensor\. The sensors are setup, gradients"):
        start(sensors=["gradient"])


@pytest.mark.parametrize(("name", "value"), [("check_every", -1), ("sample_every", 0)])
def test_an_interval_without_a_meaning_is_refused(name, value):
    with pytest.raises(UserError, match=f"{name} is {value}; it must be"):
        start(**{name: value})


# Sampled sensors, as the guard uses them


def test_low_headroom_is_said_once_and_the_run_goes_on(caplog):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    model[0].weight.data.fill_(2000.0)
    with Guard(model, optimizer, sample_every=2) as guard, caplog.at_level(logging.INFO):
        for _ in range(6):
            with torch.autocast("cpu", torch.float16):
                loss = model(torch.ones(4, 8)).float().square().mean() * 1e-9
            loss.backward()
            optimizer.step()
    decisions = [*guard.events.decisions]
    assert {each.action for each in decisions} == {Action.LOG}
    assert sorted(each.findings[0].code for each in decisions) == [Code.RISKY_SETUP, Code.HEADROOM_LOW]


def test_an_update_larger_than_its_matrix_is_a_signal_beside_a_large_norm():
    model = nn.Linear(4, 4, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with Guard(model, optimizer, sample_every=5, sensors=["gradients", "updates", "spikes"]) as guard:
        for step in range(40):
            optimizer.zero_grad()
            large = 1e4 if step in (35, 36) else 1.0
            model(torch.ones(1, 4)).sum().mul(large).backward()
            optimizer.step()
    decisions = [(each.step, each.action) for each in guard.events.decisions]
    assert decisions == [(36, Action.REFUSE)]


def test_moments_that_become_narrower_than_they_were_saved_are_said():
    wide, narrow = net(), net().half()
    of_wide, of_narrow = (torch.optim.Adam(each.parameters(), eps=1e-4) for each in (wide, narrow))
    train(wide, of_wide, *batch(0))
    with Guard(narrow, of_narrow) as guard:
        of_narrow.load_state_dict(of_wide.state_dict())
        said = [each.detail for decision in guard.events.decisions for each in decision.findings]
    assert any("moments saved in float32 become float16" in each for each in said)


def test_statistics_that_one_finite_outlier_spoiled_are_said_before_they_are_forgotten():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with Guard(model, optimizer, sensors=["calibration"], sample_every=50) as guard:
        for step in range(190):
            images = torch.randn(16, 3, 8, 8)
            if step == 149:
                images[0, 0, 0, 0] = 1e5
            model(images).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    (decision,) = guard.events.decisions
    assert (decision.action, decision.findings[0].code) == (Action.LOG, Code.STATISTICS_UNCALIBRATED)
    assert 150 < decision.step < 190


def test_what_sampled_sensors_know_goes_through_a_save():
    def run(guard, optimizer, model, steps):
        for step in steps:
            images, labels = batch(step)
            if step == 20:
                images[0, 0, 0, 0] = 1e6
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

    options = {"sample_every": 10, "sensors": ["calibration", "updates"], "check_every": 0}
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    with Guard(model, optimizer, **options) as guard:
        run(guard, optimizer, model, range(25))
        state = json.loads(json.dumps(guard.state_dict()))
    assert state["samples"][0]["looked"] == 20
    with Guard(model, optimizer, **options) as guard:
        guard.load_state_dict(state)
        assert json.loads(json.dumps(guard.state_dict())) == state


def test_the_last_gradient_norm_can_be_read():
    model, optimizer, guard = start()
    assert guard.gradient_norm == 0.0
    images, labels = batch(0)
    nn.functional.cross_entropy(model(images), labels).backward()
    norm = torch.linalg.vector_norm(torch.cat([each.grad.flatten() for each in model.parameters()]))
    optimizer.step()
    assert guard.gradient_norm == pytest.approx(float(norm), rel=1e-5)
