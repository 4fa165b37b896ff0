"""What each term weighs at which iteration."""

import pytest

from wavessm_x.losses.schedule import TERMS, is_full, weights_at

FULL = {"l1": 1.0, "perceptual": 1.0, "ssim": 1.0, "edge": 0.5, "freq": 0.3}


@pytest.mark.parametrize(
    ("iteration", "expected"),
    [
        (0, (1, 0, 0, 0, 0)),
        (999, (1, 0, 0, 0, 0)),
        (1000, (1, 0.01, 0.01, 0, 0)),
        (2000, (1, 0.055, 0.055, 0, 0)),
        (3000, (1, 0.1, 0.1, 0, 0)),
        (4000, (1, 0.55, 0.55, 0.25, 0.15)),
        (5000, (1, 1, 1, 0.5, 0.3)),
        (33000, (1, 1, 1, 0.5, 0.3)),
    ],
)
def test_the_published_schedule(iteration, expected):
    assert weights_at(iteration, 33000, FULL) == pytest.approx(dict(zip(TERMS, expected, strict=True)))


@pytest.mark.parametrize("iteration", [0, 1000, 2500, 4000, 5000, 20000])
def test_a_short_training_has_the_same_schedule_in_proportion(iteration):
    assert weights_at(iteration // 100, 330, FULL) == pytest.approx(weights_at(iteration, 33000, FULL))


def test_a_long_training_has_the_published_milestones():
    assert weights_at(4000, 100_000, FULL) == weights_at(4000, 33000, FULL)


def test_the_schedule_changes_no_weights_and_does_not_remember():
    full = dict(FULL)
    early = weights_at(10, 33000, full)
    early["edge"] = 7.0
    assert full == FULL
    assert weights_at(5000, 33000, full) == FULL


def test_weights_never_fall_nor_jump_by_more_than_a_hundredth_but_at_the_first_milestone():
    before = weights_at(1000, 33000, FULL)
    for iteration in range(1001, 5200):
        now = weights_at(iteration, 33000, FULL)
        assert all(0 <= now[name] - before[name] < 0.01 for name in TERMS)
        before = now


def test_without_l1_all_terms_weigh_in_full_at_once():
    full = FULL | {"l1": 0.0}
    assert weights_at(0, 33000, full) == full
    assert is_full(0, 33000, full)


@pytest.mark.parametrize(
    ("iteration", "num_iter", "expected"), [(4999, 33000, False), (5000, 33000, True), (50, 330, True)]
)
def test_all_weigh_in_full_from_the_last_milestone(iteration, num_iter, expected):
    assert is_full(iteration, num_iter, FULL) is expected
