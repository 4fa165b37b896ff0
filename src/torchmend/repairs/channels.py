"""One normalisation layer as vectors: what is known of each channel, and which channels are damaged."""

from dataclasses import dataclass
from enum import Enum
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from torchmend.facts.sources import TensorSource, Vector
from torchmend.facts.tensors import NormLayer, TensorRef

Mask = NDArray[np.bool_]


class Statistic(Enum):
    """Which of the two running statistics."""

    MEAN = "mean"
    VAR = "variance"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Channels:
    """What a file tells about a layer's channels; every array has shape [channels].

    Args:
        mean: Running mean, damaged elements as they are.
        var: Running variance, damaged elements as they are.
        mean_ok: Which means are finite.
        var_ok: Which variances are finite and not negative.
        weight_sum: For each channel, the sum of the feeding weight's elements; None without a finite one.
        weight_square: The sum of their squares, likewise.
        feeding_bias: The feeding layer's bias; zeros without one.
    """

    mean: Vector
    var: Vector
    mean_ok: Mask
    var_ok: Mask
    weight_sum: Vector | None = None
    weight_square: Vector | None = None
    feeding_bias: Vector

    def ok(self, statistic: Statistic) -> Mask:
        """Return which channels of a statistic survived."""
        return self.mean_ok if statistic is Statistic.MEAN else self.var_ok

    def values(self, statistic: Statistic) -> Vector:
        """Return a statistic."""
        return self.mean if statistic is Statistic.MEAN else self.var


def read_channels(source: TensorSource, layer: NormLayer) -> Channels:
    """Fetch a layer's vectors and the sums of the weight that feeds it."""
    mean, var = source.vector(layer.mean), source.vector(layer.var)
    sums, squares = _weight_sums(source, layer)
    bias = np.zeros(len(var))
    if _is_sound(layer.feeding_bias, source) and layer.feeding_bias.numel == len(var):
        bias = source.vector(layer.feeding_bias)
    return Channels(
        mean=mean,
        var=var,
        mean_ok=np.isfinite(mean),
        var_ok=np.isfinite(var) & (np.nan_to_num(var, nan=-1.0) >= 0),
        weight_sum=sums,
        weight_square=squares,
        feeding_bias=bias,
    )


def _weight_sums(source: TensorSource, layer: NormLayer) -> tuple[Vector | None, Vector | None]:
    weight = layer.feeding
    if not _is_sound(weight, source):
        return None, None
    axis = 0 if weight.shape[0] == layer.channels else 1
    sums, squares = source.row_sums(weight, axis)
    return sums, squares


def _is_sound(ref: TensorRef | None, source: TensorSource) -> TypeGuard[TensorRef]:
    """Return whether there is such a tensor, not empty, of finite real numbers that can be read."""
    if ref is None or not ref.numel or not ref.element.is_real or ref not in source.measures:
        return False
    return not source.measures[ref].nonfinite
