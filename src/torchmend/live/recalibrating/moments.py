"""Count, mean and squared deviations of each channel in float64, of any number of values, merged exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

MOST_VALUES = 1 << 24
"""Values that are widened to float64 at once: 128 MB."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """What a layer got of each channel.

    Args:
        values: Values a channel.
        count: What `mean` and `m2` are of: values a channel, or instances.
        mean: Float64 mean of each channel; shape [C].
        m2: Float64 sum of squared deviations from it; for instances, the sum of the instances' unbiased variances.
        of_instances: Whether every instance is a population of its own, of which means and variances are averaged.
    """

    values: int
    count: int
    mean: Tensor
    m2: Tensor
    of_instances: bool = False

    @property
    def variance(self) -> Tensor:
        """Unbiased variances, which torch's layers keep; not finite for a single value."""
        return self.m2 / (self.count if self.of_instances else self.count - 1)

    @property
    def spread(self) -> Tensor:
        """Variances by which a layer in training normalises: biased, and thus defined for a single value."""
        return self.m2 / self.count

    @property
    def is_finite(self) -> bool:
        """Whether means and variances are."""
        return bool(self.mean.isfinite().all() & self.spread.isfinite().all())


def moments_of(x: Tensor, *, of_instances: bool = False) -> Moments:
    """Measure what a layer got.

    Two passes over float64 copies, a part of the instances at a time: offsets of a million standard deviations do no
    harm, in whatever type the input is.

    Args:
        x: Shape [N, C, ...], any floating type.
        of_instances: As InstanceNorm sees its input.
    """
    x = x.detach().flatten(2) if x.dim() > 2 else x.detach().unsqueeze(2)
    if x.device.type == "mps":  # which has no float64
        x = x.cpu()
    at_once = max(1, MOST_VALUES // max(1, x[:1].numel()))
    part = _of_instances if of_instances else _of_values
    return merged([part(each.double()) for each in torch.split(x, at_once)])


def _of_values(x: Tensor) -> Moments:
    count = x.shape[0] * x.shape[2]
    mean = x.mean((0, 2))
    m2 = (x - mean[:, None]).square_().sum((0, 2))
    return Moments(values=count, count=count, mean=mean, m2=m2)


def _of_instances(x: Tensor) -> Moments:
    instances, _, positions = x.shape
    mean = x.mean(2)
    deviation = (x - mean[:, :, None]).square_().sum(2)
    return Moments(
        values=instances * positions,
        count=instances,
        mean=mean.mean(0),
        m2=deviation.sum(0) / (positions - 1) if positions > 1 else deviation.sum(0) * torch.nan,
        of_instances=True,
    )


def merged(parts: Sequence[Moments]) -> Moments:
    """Merge the moments of several parts into those of the whole.

    By the pairwise update of Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing
    Sample Variances" (1979), which loses nothing to a large common offset. Instances are averaged: how far their
    means lie apart is no part of their variance.
    """
    return reduce(_pair, parts)


def _pair(one: Moments, other: Moments) -> Moments:
    count = one.count + other.count
    shift = other.mean - one.mean
    m2 = one.m2 + other.m2
    if not one.of_instances:
        m2 = m2 + shift.square() * (one.count * other.count / count)
    return Moments(
        values=one.values + other.values,
        count=count,
        mean=one.mean + shift * (other.count / count),
        m2=m2,
        of_instances=one.of_instances,
    )
