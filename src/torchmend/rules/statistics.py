"""Rules on running statistics that are finite and still wrong, or unusual."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from torchmend.facts.codes import Code, Severity
from torchmend.facts.dtypes import DTYPES
from torchmend.facts.findings import Finding, Measure
from torchmend.facts.sources import Vector
from torchmend.facts.tensors import NormLayer, Role, TensorRef
from torchmend.measure.bits import largest_finite
from torchmend.rules.evidence import Evidence, finding, is_damaged

COLLAPSED = 1e-10
"""A variance below this is nothing beside torch's default eps of 1e-5, which then sets the scale alone."""

LIVE_WEIGHT = 1e-2
"""From this magnitude on, an affine weight lets a collapsed channel through: 1e-2 / sqrt(1e-5) is 3."""

FAR_VARIANCE = 1e6
"""Times the median variance of the layer."""

FAR_MEAN = 1e3
"""Times the median standard deviation of the layer."""

FAR_SPREAD = 12.0
"""Times the spread of the layer's own channels (scaled median absolute deviation), beyond which one is no relative."""

HUGE_VARIANCE = 1e20
"""No layer works on activations with a standard deviation of 1e10."""

FEWEST_CHANNELS = 4
"""Fewer make no family."""

HALF_RANGE = largest_finite(DTYPES["float16"])
_NARROW = ("float16", "bfloat16")


def collapsed(evidence: Evidence) -> Iterator[Finding]:
    """Find variances of (nearly) zero under an affine weight that is alive."""
    for layer in evidence.layers:
        measure = evidence.measures.get(layer.var)
        if measure is None or is_damaged(layer.var, measure):
            continue
        if measure.minimum is None or measure.minimum >= COLLAPSED:
            continue
        var = evidence.vector(layer.var)
        live = np.ones(len(var), dtype=np.bool_)
        if layer.weight is not None and layer.weight in evidence.measures:
            live = np.abs(evidence.vector(layer.weight)) >= LIVE_WEIGHT
        hit = (var < COLLAPSED) & live
        if hit.any():
            severity = Severity.WARNING if 2 * hit.sum() >= len(var) else Severity.NOTE
            detail = f"below {COLLAPSED:g} in {_channels(hit)}"
            yield finding(Code.VARIANCE_COLLAPSED, severity, layer.var, measure=measure, detail=detail)


def outlying(evidence: Evidence) -> Iterator[Finding]:
    """Find finite statistics that are orders of magnitude away from those of the layer's other channels."""
    for layer in evidence.layers:
        for ref, values, far in _far_channels(evidence, layer):
            detail = f"{_channels(far)}: {values[far][0]:.3g}, where the layer's median is {np.median(values):.3g}"
            yield finding(Code.STATISTIC_OUTLIER, Severity.WARNING, ref, measure=evidence.measures[ref], detail=detail)


def _far_channels(evidence: Evidence, layer: NormLayer) -> Iterator[tuple[TensorRef, Vector, NDArray[np.bool_]]]:
    mean, var = evidence.measures.get(layer.mean), evidence.measures.get(layer.var)
    if mean is None or var is None or is_damaged(layer.var, var) or is_damaged(layer.mean, mean):
        return
    if not _may_be_far(mean, var):
        return
    means, variances = evidence.vector(layer.mean), evidence.vector(layer.var)
    for ref, values, far in (
        (layer.var, variances, _far_variances(variances)),
        (layer.mean, means, _far_means(means, variances)),
    ):
        if far.any():
            yield ref, values, far


def _may_be_far(mean: Measure, var: Measure) -> bool:
    """Tell from the ranges alone, without fetching anything, whether a channel can be far off."""
    if mean.minimum is None or mean.maximum is None or var.minimum is None or var.maximum is None:
        return False
    if var.maximum > min(FAR_VARIANCE * var.minimum, HUGE_VARIANCE):
        return True
    return mean.maximum - mean.minimum > FAR_MEAN * math.sqrt(var.minimum)


def _far_variances(variances: Vector) -> NDArray[np.bool_]:
    huge = variances > HUGE_VARIANCE
    positive = variances > 0
    if positive.sum() < FEWEST_CHANNELS:
        return np.asarray(huge)
    logs = np.log(np.where(positive, variances, 1.0))
    above = logs - np.median(logs[positive])
    spread = 1.4826 * np.median(np.abs(above[positive]))
    return np.asarray(huge | (positive & (above > max(np.log(FAR_VARIANCE), FAR_SPREAD * spread))))


def _far_means(means: Vector, variances: Vector) -> NDArray[np.bool_]:
    if len(means) < FEWEST_CHANNELS or not (variances > 0).any():
        return np.zeros(len(means), dtype=np.bool_)
    unit = np.sqrt(np.median(variances[variances > 0]))
    off = np.abs(means - np.median(means))
    return np.asarray(off > max(FAR_MEAN * unit, FAR_SPREAD * 1.4826 * np.median(off)))


def batch_counts(evidence: Evidence) -> Iterator[Finding]:
    """Find counters that are negative, or contradict the statistics or the other layers."""
    counts: dict[tuple[str, bool], dict[TensorRef, int]] = defaultdict(dict)
    moved: dict[tuple[str, bool], list[TensorRef]] = defaultdict(list)
    for layer, ref, count in _counted_layers(evidence):
        counts[layer.container, layer.averaged][ref] = count
        if count < 0:
            yield finding(Code.BATCH_COUNT, Severity.WARNING, ref, detail=f"{count:,}")
        elif count == 0 and _has_moved(evidence, layer):
            moved[layer.container, layer.averaged].append(ref)
    for key, refs in moved.items():
        detail = f"0 in {len(refs)} of {len(counts[key])} layers, although the statistics have moved"
        yield finding(Code.BATCH_COUNT, Severity.NOTE, refs[0], detail=detail)
    for seen in counts.values():
        frequency = Counter(count for count in seen.values() if count > 0).most_common()
        if len(frequency) > 1:
            usual, layers = frequency[0]
            odd = next(ref for ref, count in seen.items() if count not in (0, usual))
            detail = f"{seen[odd]:,} here, {usual:,} in {layers} of {len(seen)} layers"
            yield finding(Code.BATCH_COUNT, Severity.NOTE, odd, detail=detail)


def _counted_layers(evidence: Evidence) -> Iterator[tuple[NormLayer, TensorRef, int]]:
    prefixes = {(layer.container, layer.prefix): layer for layer in evidence.layers}
    for ref in evidence.refs:
        layer = prefixes.get((ref.container, ref.group or "")) if ref.role is Role.BATCH_COUNT else None
        value = evidence.number(ref) if layer is not None else None
        if layer is not None and value is not None and np.isfinite(value):
            yield layer, ref, int(value)


def never_moved(evidence: Evidence) -> Iterator[Finding]:
    """Find statistics that are still 0 and 1 although the layer, or its live twin, has seen data."""
    counted = {(layer.container, layer.prefix): count for layer, _, count in _counted_layers(evidence)}
    by_mean = {layer.mean.path: layer for layer in evidence.layers}
    for layer in evidence.layers:
        if not _is_identity(evidence, layer):
            continue
        twin = by_mean.get(layer.mean.param or "") if layer.averaged else None
        count = counted.get((layer.container, layer.prefix), 0)
        if twin is not None and _has_moved(evidence, twin):
            detail = f"the live twin {twin.mean.path} has moved"
        elif count > 0:
            detail = f"exactly 0 and 1 after {count:,} batches"
        else:
            continue
        measure = evidence.measures[layer.mean]
        yield finding(Code.STATISTIC_NEVER_MOVED, Severity.WARNING, layer.mean, measure=measure, detail=detail)


def _is_identity(evidence: Evidence, layer: NormLayer) -> bool:
    mean, var = evidence.measures.get(layer.mean), evidence.measures.get(layer.var)
    if mean is None or var is None or mean.nonfinite or var.nonfinite:
        return False
    return mean.zeros == mean.numel > 0 and var.minimum == var.maximum == 1.0


def _has_moved(evidence: Evidence, layer: NormLayer) -> bool:
    return layer.mean in evidence.measures and layer.var in evidence.measures and not _is_identity(evidence, layer)


def half_precision(evidence: Evidence) -> Iterator[Finding]:
    """Find statistics that are stored in 16 bits or fewer."""
    for ref, measure in evidence.measured(Role.RUNNING_MEAN, Role.RUNNING_VAR):
        if ref.dtype in _NARROW or ref.dtype.startswith("float8"):
            yield finding(Code.STATISTIC_HALF_PRECISION, Severity.NOTE, ref, measure=measure, detail=ref.dtype)


def beyond_half(evidence: Evidence) -> Iterator[Finding]:
    """Find finite statistics that float16 cannot hold."""
    for ref, measure in evidence.measured(Role.RUNNING_MEAN, Role.RUNNING_VAR):
        if not is_damaged(ref, measure) and measure.absmax > HALF_RANGE:
            detail = f"largest {measure.absmax:.3g}"
            yield finding(Code.STATISTIC_BEYOND_HALF, Severity.NOTE, ref, measure=measure, detail=detail)


def _channels(hit: NDArray[np.bool_]) -> str:
    index = np.flatnonzero(hit)
    shown = ", ".join(map(str, index[:8])) + (f" and {len(index) - 8} more" if len(index) > 8 else "")
    return f"channel{'s' if len(index) > 1 else ''} {shown} of {len(hit)}"
