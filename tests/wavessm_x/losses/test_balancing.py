"""Dynamic weight averaging: its formula, its windows and its state."""

import json
import math

import pytest
import torch

from wavessm_x.losses.balancing import WINDOW, Balancing, factors


def run(balancing, start, stop, parts):
    for iteration in range(start, stop):
        balancing.advance(iteration)
        balancing.count({name: torch.tensor(part(iteration)) for name, part in parts.items()})


FALLING = {"l1": lambda at: math.exp(-at / 40), "ssim": lambda at: 1.0 + 0.1 * math.sin(at)}


def test_a_term_that_falls_more_slowly_gets_more_weight():
    got = factors({"l1": 1.0, "ssim": 1.0}, {"l1": 0.5, "ssim": 1.0})
    share = math.exp(0.5 / 2) / (math.exp(0.5 / 2) + math.exp(1 / 2))
    assert got == pytest.approx({"l1": 2 * share, "ssim": 2 * (1 - share)})
    assert got["ssim"] > 1 > got["l1"]


def test_factors_are_one_on_average_also_after_a_loss_of_zero_or_a_huge_one():
    got = factors({"a": 0.0, "b": 1e-30, "c": 1.0}, {"a": 1.0, "b": 1e30, "c": 1.0})
    assert sum(got.values()) == pytest.approx(3)
    assert all(math.isfinite(value) for value in got.values())


def test_factors_come_when_two_windows_are_over():
    balancing = Balancing(["l1", "ssim"])
    run(balancing, 0, 2 * WINDOW, FALLING)
    assert balancing.factors == {}
    balancing.advance(2 * WINDOW)
    means = [
        {name: sum(part(at) for at in range(start, start + WINDOW)) / WINDOW for name, part in FALLING.items()}
        for start in (0, WINDOW)
    ]
    assert balancing.factors == pytest.approx(factors(*means), rel=1e-5)


def test_several_batches_of_one_iteration_count_for_one_window():
    once, twice = Balancing(["l1"]), Balancing(["l1"])
    run(once, 0, 3 * WINDOW, {"l1": FALLING["l1"]})
    for iteration in range(3 * WINDOW):
        for _ in range(2):
            twice.advance(iteration)
            twice.count({"l1": torch.tensor(FALLING["l1"](iteration))})
    assert twice.factors == pytest.approx(once.factors)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_left_out(bad):
    clean, hit = Balancing(["l1", "ssim"]), Balancing(["l1", "ssim"])
    run(clean, 0, 2 * WINDOW + 1, {"l1": lambda _: 0.5, "ssim": lambda at: 1.0 / (1 + at)})
    run(hit, 0, 2 * WINDOW + 1, {"l1": lambda at: bad if at == 7 else 0.5, "ssim": lambda at: 1.0 / (1 + at)})
    assert hit.factors == pytest.approx(clean.factors)


@pytest.mark.parametrize("stop", [0, 30, WINDOW, 2 * WINDOW + 13])
def test_a_resumed_run_has_exactly_the_factors_of_an_unbroken_one(stop):
    unbroken, first, second = (Balancing(["l1", "ssim"]) for _ in range(3))
    run(unbroken, 0, 5 * WINDOW, FALLING)
    run(first, 0, stop, FALLING)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    run(second, stop, 5 * WINDOW, FALLING)
    assert second.state_dict() == unbroken.state_dict()
    assert second.factors


def test_a_state_of_other_terms_keeps_what_still_applies():
    before = Balancing(["l1", "ssim", "freq"])
    run(before, 0, 3 * WINDOW, FALLING | {"freq": lambda _: 0.3})
    after = Balancing(["l1", "ssim"])
    after.load_state_dict(before.state_dict())
    run(after, 3 * WINDOW, 4 * WINDOW + 1, FALLING)
    assert set(after.factors) == {"l1", "ssim"}
