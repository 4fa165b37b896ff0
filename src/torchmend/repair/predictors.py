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

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from torchmend.facts.sources import Vector
from torchmend.repair.channels import Channels, Mask, Statistic

FEWEST_SURVIVORS = 3
"""With fewer known channels a competition would crown chance; the plain centre of the family is used."""

_TINY = np.finfo(np.float32).tiny

_OWN_SCALE = ("level of the means", "fan-in, level of the means", "ratio to mean")
"""Candidates for a wholly lost variance that take its scale from the same layer's means."""


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
        log_square = np.log(np.maximum(channels.weight_square, _TINY))
        found.append(Design(name="fan-in", columns=ones[:, None], offset=log_square, robust=True))
        found.append(Design(name="linear", columns=_columns(ones, log_square), offset=zeros))
    known_mean = channels.mean_ok & (channels.mean != 0)
    if known_mean[damaged].all():
        log_mean = np.log(np.maximum(np.square(np.where(channels.mean_ok, channels.mean, 0.0)), _TINY))
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
    target, unit = _space(channels, statistic)
    if known.sum() < FEWEST_SURVIVORS:
        return Prediction(
            method="family median",
            values=_back(_evaluate(candidates[0], target, unit, known), statistic),
            error=None,
            scores={},
        )
    scores: dict[str, float] = {}
    best: Design = candidates[0]
    for candidate in candidates:
        left_out = _leave_one_out(candidate, target, unit, known)
        errors = output_error(_back(left_out, statistic), channels, statistic, known)
        score = float(np.sqrt(np.mean(np.square(errors))))
        if not np.isfinite(score):
            continue
        scores[candidate.name] = score
        if score < scores.get(best.name, np.inf):
            best = candidate
    values = _back(_evaluate(best, target, unit, known), statistic)
    return Prediction(method=best.name, values=values, error=scores.get(best.name), scores=scores)


def predict_by(design: Design, channels: Channels, statistic: Statistic) -> Vector:
    """Predict every channel by one design, fitted on the channels that survived."""
    target, unit = _space(channels, statistic)
    return _back(_evaluate(design, target, unit, usable(channels, statistic)), statistic)


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
        true = np.maximum(channels.var[where], _TINY)
        return np.asarray(np.abs(np.sqrt(true / predicted[where]) - 1.0))


def _deviation(channels: Channels) -> Vector:
    """Return each channel's standard deviation, the family's median where it is not known."""
    good = channels.var_ok & (np.where(channels.var_ok, channels.var, 0.0) > 0)
    if not good.any():
        return np.ones(len(channels.var))
    return np.sqrt(np.where(good, channels.var, np.median(channels.var[good])))


def _space(channels: Channels, statistic: Statistic) -> tuple[Vector, Vector]:
    """Return the fitting target and the unit that each channel's residual is measured in."""
    if statistic is Statistic.MEAN:
        return channels.mean, _deviation(channels)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(np.maximum(channels.var, _TINY)), np.ones(len(channels.var))


def _back(prediction: Vector, statistic: Statistic) -> Vector:
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
        prediction[known] = design.offset[known] + _median_of_others(residual)
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


def _median_of_others(values: Vector) -> Vector:
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


# A statistic of which nothing survived


def predict_from_layers(layer: Channels, others: Sequence[Channels], statistic: Statistic) -> Prediction | None:
    """Predict a wholly lost statistic from what layers that kept theirs show.

    Every candidate with at most one parameter is fitted on each other layer; the median of those
    parameters predicts this layer. A candidate's score is the median, over the other layers, of the error that
    it makes when that layer is the one left out.

    Args:
        layer: The layer that lost the statistic.
        others: Layers of which the statistic is intact.
        statistic: Which.

    Returns:
        None when no candidate could be scored, or when identity statistics win.
    """
    scores: dict[str, float] = {}
    parameters: dict[str, float] = {}
    wanted = {design.name: design for design in _layer_designs(layer, statistic)}
    for name, design in wanted.items():
        fits = [
            (other, twin, _one_parameter(twin, other, statistic))
            for other in others
            if (twin := _same_design(other, statistic, name)) is not None
        ]
        if not fits:
            continue
        parameters[name] = float(np.median([fit for _, _, fit in fits]))
        if design.columns.shape[1] == 0 or len(fits) > 1:
            scores[name] = _cross_layer_score(fits, statistic)
    if not scores:
        return None
    best = _best_for_layer(scores, lone_mean=statistic is Statistic.MEAN and bool(layer.var_ok.all()))
    if best == "identity":
        return None
    values = _back(_apply(wanted[best], parameters[best]), statistic)
    return Prediction(method=best, values=values, error=scores[best], scores=scores)


def _best_for_layer(scores: dict[str, float], *, lone_mean: bool) -> str:
    """Return the winner; only a candidate that is far better displaces the cautious choice.

    For a variance that is what follows the layer's own means: all other candidates take the layer for as loud
    as the others, which the one that sees the raw input seldom is, and how well they fit the others cannot
    tell. For a mean whose variance is known it is identity. Far better means half the error.
    """
    best = min(scores, key=lambda name: scores[name])
    cautious = [name for name in scores if name in _OWN_SCALE]
    if lone_mean and "identity" in scores:
        cautious = ["identity"]
    if not cautious:
        return best
    safe = min(cautious, key=lambda name: scores[name])
    return best if scores[best] < scores[safe] / 2 else safe


def _layer_designs(channels: Channels, statistic: Statistic) -> list[Design]:
    """List every candidate with at most one parameter; for variances, those too that scale with the means."""
    found = [design for design in designs(channels, statistic) if design.columns.shape[1] <= 1]
    if statistic is Statistic.VAR:
        found += _from_level_of_means(channels)
    return found


def _from_level_of_means(channels: Channels) -> list[Design]:
    """List the candidates that take a variance's scale from all the layer's means; none without means.

    Their parameter is a ratio without a unit, and so means the same in layers of different scale.
    """
    level = _mean_square(channels.mean, channels.mean_ok)
    if level is None:
        return []
    ones = np.ones((len(channels.mean), 1))
    offset = np.log(level) * ones[:, 0]
    levels = [Design(name="level of the means", columns=ones, offset=offset, robust=True)]
    if channels.weight_square is not None and (square := channels.weight_square.mean()) > 0:
        each = offset + np.log(np.maximum(channels.weight_square / square, _TINY))
        levels.append(Design(name="fan-in, level of the means", columns=ones, offset=each, robust=True))
    return levels


def _mean_square(values: Vector, ok: Mask) -> float | None:
    """Return the mean square of the elements that are known; None when nothing above zero is."""
    square = float(np.mean(np.square(values[ok]))) if ok.any() else 0.0
    return square if square > _TINY else None


def _same_design(other: Channels, statistic: Statistic, name: str) -> Design | None:
    return next((d for d in _layer_designs(other, statistic) if d.name == name), None)


def _one_parameter(design: Design, channels: Channels, statistic: Statistic) -> float:
    known = usable(channels, statistic)
    target, unit = _space(channels, statistic)
    if design.columns.shape[1] == 0:
        return 0.0
    residual = (target - design.offset)[known]
    if design.robust:
        return float(np.median(residual))
    weights = 1.0 / unit[known]
    column, residual = design.columns[known, 0] * weights, residual * weights
    power = float(column @ column)
    return float(column @ residual) / power if power else 0.0


def _apply(design: Design, parameter: float) -> Vector:
    if design.columns.shape[1] == 0:
        return design.offset
    return np.asarray(design.offset + design.columns[:, 0] * parameter)


def _cross_layer_score(fits: Sequence[tuple[Channels, Design, float]], statistic: Statistic) -> float:
    errors = []
    for left_out, (channels, design, _) in enumerate(fits):
        rest = [fit for at, (_, _, fit) in enumerate(fits) if at != left_out]
        parameter = float(np.median(rest)) if rest else 0.0
        predicted = _back(_apply(design, parameter), statistic)
        errors.append(layer_error(predicted, channels, statistic))
    return float(np.median(errors))


def layer_error(predicted: Vector, channels: Channels, statistic: Statistic) -> float:
    """Return the root mean square of the output's error when a statistic is predicted for a whole layer.

    A single channel whose variance is predicted far too large falls silent, and is off by one standard
    deviation at most. A whole layer that falls silent takes its signal with it, so here a variance too large
    by some factor counts as much as one too small by it.
    """
    known = usable(channels, statistic)
    if statistic is Statistic.MEAN:
        errors = output_error(predicted, channels, statistic, known)
    else:
        true = np.maximum(channels.var[known], _TINY)
        errors = np.expm1(np.abs(np.log(true / predicted[known])) / 2)
    return float(np.sqrt(np.mean(np.square(errors))))
