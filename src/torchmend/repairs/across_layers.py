"""Predict a statistic of which a layer has nothing left, from what its other statistic and other layers show."""

from collections.abc import Sequence

import numpy as np

from torchmend.facts.sources import Vector
from torchmend.repairs.channels import Channels, Mask, Statistic
from torchmend.repairs.predictors import (
    TINY,
    Design,
    Prediction,
    designs,
    fitting_space,
    from_fitting_space,
    median_of_others,
    output_error,
    usable,
)

_OWN_SCALE = ("level of the means", "fan-in, level of the means", "ratio to mean")
"""Candidates for a wholly lost variance that take its scale from the same layer's means."""


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
    values = from_fitting_space(_apply(wanted[best], parameters[best]), statistic)
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
        each = offset + np.log(np.maximum(channels.weight_square / square, TINY))
        levels.append(Design(name="fan-in, level of the means", columns=ones, offset=each, robust=True))
    return levels


def _mean_square(values: Vector, ok: Mask) -> float | None:
    """Return the mean square of the elements that are known; None when nothing above zero is."""
    square = float(np.mean(np.square(values[ok]))) if ok.any() else 0.0
    return square if square > TINY else None


def _same_design(other: Channels, statistic: Statistic, name: str) -> Design | None:
    return next((d for d in _layer_designs(other, statistic) if d.name == name), None)


def _one_parameter(design: Design, channels: Channels, statistic: Statistic) -> float:
    known = usable(channels, statistic)
    target, unit = fitting_space(channels, statistic)
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
    fitted = np.array([fit for _, _, fit in fits])
    of_the_others = median_of_others(fitted) if len(fits) > 1 else np.zeros(1)
    for (channels, design, _), parameter in zip(fits, of_the_others.tolist(), strict=True):
        predicted = from_fitting_space(_apply(design, parameter), statistic)
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
        true = np.maximum(channels.var[known], TINY)
        errors = np.expm1(np.abs(np.log(true / predicted[known])) / 2)
    return float(np.sqrt(np.mean(np.square(errors))))
