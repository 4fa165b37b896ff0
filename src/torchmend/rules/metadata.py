"""Rules on what stands beside the tensors: loss scaler, learning rates, metrics."""

import math
import re
from collections.abc import Iterator

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Finding
from torchmend.facts.tensors import Role, Scalar
from torchmend.rules.evidence import Evidence, finding

SMALLEST_SCALE = 2.0**-126
"""The smallest normal float32: a scale below it loses digits, then becomes zero."""

_LOWER_IS_BETTER = re.compile(r"loss|err|mse|mae|fid|lpips|perplexity|ppl|nll|cost|(^|_)[wc]er($|_)")
_HIGHER_IS_BETTER = re.compile(r"acc|psnr|ssim|iou|map|f1|auc|score|bleu|dice|recall|precision|reward|r2")
_LEARNING_RATES = {"lr", "initial_lr", "_last_lr", "base_lrs", "learning_rate"}


def direction(scalar: Scalar) -> int:
    """Tell from a metric's name whether lower (-1) or higher (+1) is better; 0 when it cannot be told."""
    name = scalar.leaf.lower()
    if _LOWER_IS_BETTER.search(name):
        return -1
    return 1 if _HIGHER_IS_BETTER.search(name) else 0


def scaler(evidence: Evidence) -> Iterator[Finding]:
    """Find loss scales that stop training."""
    scalers = {scalar.path[:-1] for scalar in evidence.scalars if scalar.path[-1:] == ("growth_factor",)}
    for scalar in evidence.scalars if scalers else ():
        is_scale = scalar.path[-1:] == ("scale",) and scalar.path[:-1] in scalers
        if is_scale and isinstance(scalar.value, int | float) and (severity := _bad_scale(float(scalar.value))):
            yield finding(Code.SCALER_BROKEN, severity, scalar, detail=f"scale {scalar.value:g}")
    for ref in evidence.refs:
        if ref.role is not Role.SCALER_STATE or ref.leaf not in ("scale", "_scale"):
            continue
        value = evidence.number(ref)
        if value is not None and (severity := _bad_scale(value)):
            measure = evidence.measures.get(ref)
            yield finding(Code.SCALER_BROKEN, severity, ref, measure=measure, detail=f"scale {value:g}")


def _bad_scale(scale: float) -> Severity | None:
    if not math.isfinite(scale) or scale < SMALLEST_SCALE:
        return Severity.ERROR
    return Severity.NOTE if scale < 1.0 else None


def learning_rates(evidence: Evidence) -> Iterator[Finding]:
    """Find learning rates that ruin the weights at the first step."""
    for scalar in evidence.scalars:
        value = scalar.value
        if isinstance(value, float) and not math.isfinite(value) and scalar.leaf in _LEARNING_RATES:
            used = "param_groups" in scalar.path or scalar.leaf == "base_lrs"
            severity = Severity.ERROR if used else Severity.WARNING
            yield finding(Code.LEARNING_RATE, severity, scalar, detail=f"{value}")


def metrics(evidence: Evidence) -> Iterator[Finding]:
    """Find best values that nothing can beat, and losses and metrics that are not finite.

    An infinity on the worse side is how a best value starts, and no finding. A long history gives one finding.
    """
    told: set[tuple[str | int, ...]] = set()
    for scalar in evidence.scalars:
        value = scalar.value
        if not isinstance(value, float) or math.isfinite(value) or scalar.leaf in _LEARNING_RATES:
            continue
        name = scalar.leaf.lower()
        place = scalar.path[:-1] if scalar.path and isinstance(scalar.path[-1], int) else scalar.path
        if place in told:
            continue
        if "best" in name:
            if math.isnan(value) or value * direction(scalar) > 0:
                told.add(place)
                yield finding(Code.BEST_METRIC, Severity.WARNING, scalar, detail=f"{value}")
        elif direction(scalar) or "metric" in name:
            told.add(place)
            severity = Severity.WARNING if math.isnan(value) else Severity.NOTE
            yield finding(Code.LOSS_NOT_FINITE, severity, scalar, detail=f"{value}")
