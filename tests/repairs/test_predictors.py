"""The competition: closed forms equal brute force, planted relations win, results are always usable."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchmend.repairs import predictors
from torchmend.repairs.across_layers import predict_from_layers
from torchmend.repairs.channels import Channels, Statistic
from torchmend.repairs.predictors import compete, designs


def layer(seed: int, n: int = 24, *, lost: float = 0.3, both: bool = False) -> Channels:
    """Make a layer without any relation between its vectors; `lost` of its channels are damaged."""
    rng = np.random.default_rng(seed)
    mean, var = rng.normal(size=n), rng.lognormal(size=n)
    bad = rng.random(n) < lost
    bad[:3] = False
    return Channels(
        mean=np.where(bad if both else False, np.nan, mean),
        var=np.where(bad, np.nan, var),
        mean_ok=~bad if both else np.ones(n, bool),
        var_ok=~bad,
        weight_sum=rng.normal(size=n),
        weight_square=rng.lognormal(size=n),
        feeding_bias=rng.normal(size=n),
    )


@pytest.mark.parametrize("statistic", list(Statistic))
@pytest.mark.parametrize("seed", range(5))
def test_leave_one_out_in_closed_form_equals_refitting(statistic, seed):
    channels = layer(seed, lost=0.0)
    known = np.ones(24, bool)
    target, unit = predictors.fitting_space(channels, statistic)
    for design in designs(channels, statistic):
        quick = predictors._leave_one_out(design, target, unit, known)
        for i in range(24):
            others = known.copy()
            others[i] = False
            assert predictors._evaluate(design, target, unit, others)[i] == pytest.approx(quick[i], rel=1e-6, abs=1e-8)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30))
def test_the_median_of_all_others_equals_taking_each_out(values):
    array = np.array(values)
    expected = [np.median(np.delete(array, i)) for i in range(len(array))]
    assert predictors.median_of_others(array) == pytest.approx(expected)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 40), st.floats(0.0, 0.9), st.booleans())
def test_predictions_are_finite_and_variances_positive(seed, n, lost, both):
    channels = layer(seed, n, lost=lost, both=both)
    for statistic in Statistic:
        values = compete(channels, statistic).values[~channels.ok(statistic)]
        assert np.isfinite(values).all()
        if statistic is Statistic.VAR:
            assert (values > 0).all()


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_the_winner_has_the_lowest_score(seed):
    won = compete(layer(seed), Statistic.VAR)
    assert won.error == min(won.scores.values())


def planted(seed: int, **relation: np.ndarray) -> Channels:
    from dataclasses import replace

    return replace(layer(seed, lost=0.0), **relation)


def test_variances_that_follow_the_weights_are_predicted_from_them():
    base = layer(0, lost=0.0)
    channels = planted(0, var=np.where(np.arange(24) == 5, np.nan, 3.0 * base.weight_square))
    channels = planted(0, var=channels.var, var_ok=np.arange(24) != 5)
    won = compete(channels, Statistic.VAR)
    assert won.values[5] == pytest.approx(3.0 * base.weight_square[5])
    assert won.error == pytest.approx(0.0, abs=1e-6)


def test_means_that_follow_weights_and_bias_are_predicted_from_them():
    base = layer(1, lost=0.0)
    true = 0.7 * base.weight_sum + base.feeding_bias
    channels = planted(1, mean=np.where(np.arange(24) == 2, np.inf, true), mean_ok=np.arange(24) != 2)
    assert compete(channels, Statistic.MEAN).values[2] == pytest.approx(true[2])


def test_a_family_on_its_own_scale_is_not_given_ones():
    rng = np.random.default_rng(2)
    var = rng.lognormal(np.log(9000.0), 0.1, size=24)
    channels = planted(2, var=np.where(np.arange(24) == 0, np.nan, var), var_ok=np.arange(24) != 0)
    assert 5000 < compete(channels, Statistic.VAR).values[0] < 15000


def test_two_survivors_are_followed_without_a_competition():
    channels = planted(3, var=np.array([np.nan] * 22 + [4.0, 4.0]), var_ok=np.array([False] * 22 + [True] * 2))
    assert np.allclose(compete(channels, Statistic.VAR).values[:22], 4.0)


def test_a_lost_variance_follows_the_other_layers():
    others = [planted(seed, var=2.0 * layer(seed, lost=0.0).weight_square) for seed in range(4)]
    lost = planted(9, var=np.full(24, np.nan), var_ok=np.zeros(24, bool))
    predicted = predict_from_layers(lost, others, Statistic.VAR)
    assert predicted is not None
    assert predicted.values == pytest.approx(2.0 * lost.weight_square)


def test_without_other_layers_nothing_is_predicted():
    lost = planted(9, var=np.full(24, np.nan), var_ok=np.zeros(24, bool))
    assert predict_from_layers(lost, [], Statistic.VAR) is None


def test_a_dead_channel_does_not_drag_the_family_to_zero():
    var = np.array([0.0, np.nan, *([100.0] * 22)])
    channels = planted(4, var=var, var_ok=np.isfinite(var))
    assert compete(channels, Statistic.VAR).values[1] == pytest.approx(100.0, rel=0.5)
