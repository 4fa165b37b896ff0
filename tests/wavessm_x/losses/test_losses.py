"""The terms put together: schedule, balancing, precision, resume."""

import logging

import pytest
import torch

from wavessm_x.config import ConfigError
from wavessm_x.losses import TERMS, Losses
from wavessm_x.losses.balancing import WINDOW

WEIGHTS = (1.0, 1.0, 1.0, 0.5, 0.3)
SHORT = 330  # its milestones are at 10, 30 and 50


def pair(seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(1, 3, 16, 16, generator=generator)
    return torch.rand(1, 3, 16, 16, generator=generator).requires_grad_(), target


def run(losses, start, stop):
    totals = []
    for iteration in range(start, stop):
        output, target = pair(iteration)
        totals.append(losses(target + (output - target) / (1 + 0.01 * iteration), target, iteration)[0].item())
    return totals


def test_the_total_is_the_sum_of_the_weighed_parts():
    losses = Losses(WEIGHTS, SHORT)
    total, parts = losses(*pair(), 60)
    assert tuple(parts) == TERMS
    assert total.item() == pytest.approx(sum(losses.weights(60)[name] * parts[name].item() for name in TERMS))


def test_a_term_that_weighs_nothing_is_not_computed_and_is_zero(monkeypatch):
    losses = Losses(WEIGHTS, SHORT)
    monkeypatch.setitem(losses._terms, "edge", lambda *_: pytest.fail("edge was computed"))
    _, parts = losses(*pair(), 0)
    assert {name: value.item() > 0 for name, value in parts.items()} == {name: name == "l1" for name in TERMS}


def test_edge_and_freq_switch_on_in_a_fresh_run_and_do_not_jump_at_a_resume():
    fresh, resumed = Losses(WEIGHTS, SHORT), Losses(WEIGHTS, SHORT)
    run(fresh, 0, 45)
    resumed.load_state_dict(fresh.state_dict())
    _, parts = fresh(*pair(), 45)
    assert parts["edge"] > 0
    assert parts["freq"] > 0
    assert resumed.weights(45) == fresh.weights(45)
    assert fresh.weights(45)["edge"] == pytest.approx(0.375)


@pytest.mark.parametrize("stop", [20, 80, 2 * WINDOW + 70])
def test_a_resumed_run_has_exactly_the_totals_of_an_unbroken_one(stop):
    end = 5 * WINDOW
    unbroken, first, second = (Losses(WEIGHTS, SHORT) for _ in range(3))
    totals = run(unbroken, 0, end)
    run(first, 0, stop)
    second.load_state_dict(first.state_dict())
    assert run(second, stop, end) == totals[stop:]
    assert second.weights(end) != Losses(WEIGHTS, SHORT).weights(end)


def test_validation_does_not_touch_the_balancing():
    losses = Losses(WEIGHTS, SHORT)
    run(losses, 0, 120)
    before = losses.state_dict()
    with torch.no_grad():
        losses(*(each.detach() for each in pair()), 170)
    assert losses.state_dict() == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_are_float32_whatever_autocast_and_the_output_are(dtype):
    output, target = pair()
    output = output.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, parts = Losses(WEIGHTS, SHORT)(output, target, 60)
    plain, _ = Losses(WEIGHTS, SHORT)(output.detach().float(), target, 60)
    assert total.dtype == torch.float32
    assert {part.dtype for part in parts.values()} == {torch.float32}
    assert total.item() == plain.item()
    total.backward()
    assert output.grad.isfinite().all()


def test_a_nan_shows_in_the_total():
    output, target = pair()
    total, parts = Losses(WEIGHTS, SHORT)(output * float("nan"), target, 60)
    assert total.isnan()
    assert parts["ssim"].isnan()


def test_without_its_weights_the_perceptual_loss_is_off_and_a_message_says_so(caplog):
    with caplog.at_level(logging.INFO, logger="wavessm_x"):
        losses = Losses(WEIGHTS, SHORT)
    assert [record.message for record in caplog.records] == ["No --perceptual_weights: the perceptual loss is off."]
    assert losses.weights(60)["perceptual"] == 0


def test_nothing_is_said_when_no_perceptual_loss_is_asked_for(caplog):
    with caplog.at_level(logging.INFO, logger="wavessm_x"):
        Losses((1, 0, 1, 0, 0), SHORT)
    assert not caplog.records


@pytest.mark.parametrize("weights", [(0, 0, 0, 0, 0), (0, 1, 0, 0, 0)])
def test_weights_that_leave_nothing_to_train_on_are_refused(weights):
    with pytest.raises(ConfigError, match="leave no loss to train on"):
        Losses(weights, SHORT)


def test_a_training_without_l1_has_a_gradient_from_the_first_iteration():
    output, target = pair()
    Losses((0, 0, 1, 0, 0), SHORT)(output, target, 0)[0].backward()
    assert output.grad.abs().sum() > 0
