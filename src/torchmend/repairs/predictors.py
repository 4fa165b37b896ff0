"""Predictors of damaged statistics, and the competition between them.

Each predictor is fitted on channels whose statistic is known and predicts the others. They are scored by
leave-one-out: every known channel is predicted from all the other known ones, and the error is what a wrong
statistic does to the layer's normalised output, in its standard deviations:

    mean      |predicted - true| / sqrt(true variance)
    variance  |sqrt(true / predicted) - 1|

so that a variance predicted too small, which blows its channel up, weighs more than one too large. Means are
fitted by least squares in units of the channel's own standard deviation, variances in logarithms. Linear fits
need no refitting for leave-one-out: the residual of channel i is r_i / (1 - h_ii), h the hat matrix's diagonal
(Allen's PRESS statistic; D. M. Allen, Technometrics 16, 1974).
"""

from dataclasses import dataclass

import numpy as np

from torchmend.facts.sources import Vector
from torchmend.repairs.channels import Channels, Mask, Statistic

FEWEST_SURVIVORS = 3
"""With fewer known channels a competition would crown chance; the plain centre of the family is used."""

TINY = np.finfo(np.float32).tiny
"""Stands in for a variance or a square of zero where a logarithm is taken."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Design:
    """One predictor of one statistic: a linear model of all channels, in the statistic's fitting space.

    Args:
        name: In words, for the report.
        columns: Shape [channels, parameters]; no column means a fixed prediction.
        offset: Shape [channels]; what is added to the linear model.
        robust: Fit a single parameter by the median of the ratios instead of least squares.
    """

    name: str
    columns: Vector
    offset: Vector
    robust: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """The outcome of a competition.

    Args:
        method: The winner.
        values: Shape [channels]; meaningful where the statistic is damaged.
        error: The winner's score: root mean square over the known channels; None when none could be scored.
        scores: Every candidate's score.
    """

    method: str
    values: Vector
    error: float | None
    scores: dict[str, float]


def designs(channels: Channels, statistic: Statistic) -> list[Design]:
    """List the candidates for a statistic, simplest first.

    Means live in their own unit, variances in natural logarithms. Candidates that need something that is
    missing for any damaged channel (the feeding weight, the other statistic) are left out.
    """
    n = len(channels.mean)
    ones, zeros = np.ones(n), np.zeros(n)
    damaged = ~channels.ok(statistic)
    identity = Design(name="identity", columns=np.empty((n, 0)), offset=zeros)
    found = [
        Design(name="family median", columns=ones[:, None], offset=zeros, robust=True),
        Design(name="family mean", columns=ones[:, None], offset=zeros),
        identity,
    ]
    if statistic is Statistic.MEAN:
        if channels.weight_sum is not None:
            bias = channels.feeding_bias
            found.append(Design(name="fan-in", columns=channels.weight_sum[:, None], offset=bias))
            found.append(Design(name="linear", columns=_columns(ones, channels.weight_sum, bias), offset=zeros))
        if channels.var_ok[damaged].all():
            deviation = np.sqrt(np.where(channels.var_ok, channels.var, 0.0))
            found.append(Design(name="ratio to deviation", columns=deviation[:, None], offset=zeros))
        return found
    if channels.weight_square is not None:
        log_square = np.log(np.maximum(channels.weight_square, TINY))
        found.append(Design(name="fan-in", columns=ones[:, None], offset=log_square, robust=True))
        found.append(Design(name="linear", columns=_columns(ones, log_square), offset=zeros))
    known_mean = channels.mean_ok & (channels.mean != 0)
    if known_mean[damaged].all():
        log_mean = np.log(np.maximum(np.square(np.where(channels.mean_ok, channels.mean, 0.0)), TINY))
        found.append(Design(name="ratio to mean", columns=ones[:, None], offset=log_mean, robust=True))
        found.append(Design(name="linear in mean", columns=_columns(ones, log_mean), offset=zeros))
    return found


def _columns(*columns: Vector) -> Vector:
    """Stack columns, leaving out those that are constant once an intercept is there."""
    kept = [columns[0]] + [column for column in columns[1:] if np.ptp(column) > 0]
    return np.stack(kept, axis=1)


def compete(channels: Channels, statistic: Statistic) -> Prediction:
    """Predict a statistic's damaged channels by whichever candidate predicts the surviving ones best.

    Args:
        channels: A layer of which at least one channel of the statistic survived.
        statistic: Which.

    Returns:
        Finite values; variances are positive.
    """
    known = usable(channels, statistic)
    candidates = designs(channels, statistic)
    target, unit = fitting_space(channels, statistic)
    if known.sum() < FEWEST_SURVIVORS:
        return Prediction(
            method="family median",
            values=from_fitting_space(_evaluate(candidates[0], target, unit, known), statistic),
            error=None,
            scores={},
        )
    scores: dict[str, float] = {}
    best: Design = candidates[0]
    for candidate in candidates:
        left_out = _leave_one_out(candidate, target, unit, known)
        errors = output_error(from_fitting_space(left_out, statistic), channels, statistic, known)
        score = float(np.sqrt(np.mean(np.square(errors))))
        if not np.isfinite(score):
            continue
        scores[candidate.name] = score
        if score < scores.get(best.name, np.inf):
            best = candidate
    values = from_fitting_space(_evaluate(best, target, unit, known), statistic)
    return Prediction(method=best.name, values=values, error=scores.get(best.name), scores=scores)


def predict_by(design: Design, channels: Channels, statistic: Statistic) -> Vector:
    """Predict every channel by one design, fitted on the channels that survived."""
    target, unit = fitting_space(channels, statistic)
    return from_fitting_space(_evaluate(design, target, unit, usable(channels, statistic)), statistic)


def usable(channels: Channels, statistic: Statistic) -> Mask:
    """Return the channels that can teach: known, and for a variance not zero (a dead channel)."""
    ok = channels.ok(statistic)
    if statistic is Statistic.MEAN:
        return ok
    live = ok & (np.where(ok, channels.var, 0.0) > 0)
    return live if live.any() else ok


def output_error(predicted: Vector, channels: Channels, statistic: Statistic, where: Mask) -> Vector:
    """Return how far the normalised output is off, in standard deviations, for the channels of `where`."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        if statistic is Statistic.MEAN:
            return np.asarray(np.abs(predicted - channels.mean)[where] / _deviation(channels)[where])
        true = np.maximum(channels.var[where], TINY)
        return np.asarray(np.abs(np.sqrt(true / predicted[where]) - 1.0))


def _deviation(channels: Channels) -> Vector:
    """Return each channel's standard deviation, the family's median where it is not known."""
    good = channels.var_ok & (np.where(channels.var_ok, channels.var, 0.0) > 0)
    if not good.any():
        return np.ones(len(channels.var))
    return np.sqrt(np.where(good, channels.var, np.median(channels.var[good])))


def fitting_space(channels: Channels, statistic: Statistic) -> tuple[Vector, Vector]:
    """Return the fitting target and the unit that each channel's residual is measured in."""
    if statistic is Statistic.MEAN:
        return channels.mean, _deviation(channels)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(np.maximum(channels.var, TINY)), np.ones(len(channels.var))


def from_fitting_space(prediction: Vector, statistic: Statistic) -> Vector:
    """Turn predictions in the fitting space into values of the statistic, finite and for variances positive."""
    if statistic is Statistic.MEAN:
        return prediction
    return np.exp(np.clip(prediction, -80.0, 80.0))


def _evaluate(design: Design, target: Vector, unit: Vector, known: Mask) -> Vector:
    """Fit on the known channels, predict all."""
    if design.columns.shape[1] == 0:
        return design.offset
    residual = (target - design.offset)[known]
    columns = design.columns[known]
    if design.robust:
        return design.offset + design.columns[:, 0] * np.median(residual)
    weights = 1.0 / unit[known]
    solution = np.linalg.lstsq(columns * weights[:, None], residual * weights, rcond=None)[0]
    return np.asarray(design.offset + design.columns @ solution)


def _leave_one_out(design: Design, target: Vector, unit: Vector, known: Mask) -> Vector:
    """Predict every known channel from the other known ones; the rest of the vector is meaningless."""
    prediction = np.zeros_like(target)
    if design.columns.shape[1] == 0:
        return design.offset
    residual = (target - design.offset)[known]
    if design.robust:
        prediction[known] = design.offset[known] + median_of_others(residual)
        return prediction
    weights = 1.0 / unit[known]
    columns = design.columns[known] * weights[:, None]
    left, singular, _ = np.linalg.svd(columns, full_matrices=False)
    left = left[:, singular > singular.max(initial=0.0) * 1e-10]
    leverage = np.clip(np.square(left).sum(axis=1), 0.0, 1.0 - 1e-9)
    scaled = residual * weights
    press = (scaled - left @ (left.T @ scaled)) / (1.0 - leverage)
    prediction[known] = target[known] - press * unit[known]
    return prediction


def median_of_others(values: Vector) -> Vector:
    """For each value, the median of all the others."""
    n = len(values)
    order = np.argsort(values, kind="stable")
    ranks = np.empty(n, dtype=np.intp)
    ranks[order] = np.arange(n)
    ordered = values[order]

    def without(at: int) -> Vector:
        """For each value, return the `at`-th smallest of the others."""
        return ordered[np.where(ranks <= at, at + 1, at)]

    others = n - 1
    if others % 2:
        return without(others // 2)
    return (without(others // 2 - 1) + without(others // 2)) / 2
