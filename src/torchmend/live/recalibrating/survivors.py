"""What a layer gets of noise, brought to the scale of what its surviving statistics remember of data."""

import torch
from torch import Tensor

from torchmend.live.recalibrating.moments import Moments

FEWEST = 4
"""Survivors of a layer, from which on they are taken to tell its scale."""

LEAST_VARIANCE = 1e-2
"""Of the survivors' median: below, a channel is no better known than one of this variance."""


def matched(noise: Moments, mean: Tensor, variance: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Bring what was measured on noise to the survivors' scale.

    Data vary from input to input where noise is alike, so that all of a layer's variances come out too small, or too
    large, by much the same factor; this is the median over the survivors. Means follow the line through the survivors'
    (noise, data), by least squares, each weighted by how narrow its channel is. Measured in
    `docs/decisions/2026-11-27-recalibration-measured.md`.

    Args:
        noise: Measured; of C channels.
        mean: The layer's running mean, damaged elements not finite; shape [C].
        variance: Likewise, damaged elements not finite or below 0; shape [C].
        eps: What the layer adds to variances.

    Returns:
        Means and variances of all channels in float64, unchanged where too few survived to tell; each of shape [C].
    """
    mean, variance = mean.to(noise.mean), variance.to(noise.mean)
    sound = variance.isfinite() & (variance >= 0)
    new_mean, new_variance = noise.mean, noise.variance
    if int(sound.sum()) >= FEWEST:
        factor = ((variance[sound] + eps) / (new_variance[sound] + eps)).log().median().exp()
        new_variance = new_variance * factor
    known = sound & mean.isfinite()
    if int(known.sum()) >= FEWEST:
        new_mean = _on_line(new_mean, mean, variance + eps, known)
    return new_mean, new_variance


def _on_line(x: Tensor, y: Tensor, variance: Tensor, known: Tensor) -> Tensor:
    """Return where all `x` lie on the line through the known (x, y)."""
    usual = variance[known].median()
    weight = 1 / variance[known].clamp(min=LEAST_VARIANCE * usual)
    weight = weight / weight.sum()
    x_centre, y_centre = (weight * x[known]).sum(), (weight * y[known]).sum()
    across, up = x[known] - x_centre, y[known] - y_centre
    spread = (weight * across.square()).sum()
    slope = (weight * across * up).sum() / spread if spread > 0 else torch.ones_like(spread)
    return y_centre + slope * (x - x_centre)
