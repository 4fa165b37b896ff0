"""The three functions of the classic recipe, by their own names, over torchmend's rules and repairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from torchmend.facts.codes import Code, Severity
from torchmend.facts.errors import UserError
from torchmend.facts.findings import Finding
from torchmend.facts.plans import Edit, RepairPlan
from torchmend.facts.tensors import TensorRef
from torchmend.live.repairing import apply_plan
from torchmend.live.screening import STATISTICS, is_evidently_sound, is_statistic
from torchmend.live.source import LiveSource
from torchmend.measure.bits import damaged
from torchmend.repairs.statistics import StatisticsPlanner
from torchmend.rules.judge import judge
from torchmend.rules.layers import norm_layers


@dataclass(frozen=True, slots=True)
class Issue:
    """An error that `check_model_health` found; as a text it reads as in the classic recipe.

    Args:
        finding: All that is known of it.
    """

    finding: Finding

    @property
    def name(self) -> str:
        """The layer of a statistic; the parameter or buffer of anything else."""
        ref = self.finding.ref
        return "" if ref is None else _classic_name(ref)

    def __str__(self) -> str:
        ref, measure = self.finding.ref, self.finding.measure
        if ref is None or measure is None:
            return f"{self.finding.code.value}: {self.finding.message}"
        counts = f"NaN: {measure.nan}, Inf: {measure.inf}"
        if self.finding.code in (Code.VARIANCE_NEGATIVE, Code.SECOND_MOMENT_NEGATIVE):
            counts += f", negative: {(measure.negative or 0) - measure.neg_inf}"
        return f"Corrupted {_classic_kind(ref)}: {self.name} ({counts})"


def check_model_health(model: nn.Module, check_weights: bool = False) -> tuple[bool, list[Issue]]:
    """Check a model for corruption: NaN, Inf, negative variances.

    Args:
        model: On any device, in any mode; it is only read.
        check_weights: Look at every parameter and buffer, not at normalisation statistics only.

    Returns:
        Whether no error was found, and the errors. `str(issue)` is one line such as
        `Corrupted running_mean: encoder.bn1 (NaN: 3, Inf: 0)`; `issue.finding` tells more.

    Raises:
        TypeError: It is no module.
    """
    if is_evidently_sound(_module(model), statistics_only=not check_weights):
        return True, []
    source = LiveSource(model, wanted=None if check_weights else is_statistic)
    errors = _errors(source)
    distinct = {(f.code, f.ref.storage if f.ref else f.place): f for f in reversed(errors)}
    issues = [Issue(finding) for finding in reversed(distinct.values())]
    return not issues, issues


def sanitize_model_bn_stats(model: nn.Module, verbose: bool = True, write: Callable[[str], object] = print) -> int:
    """Repair the corrupted running statistics of a model in place.

    A statistic of which nothing is left goes back to 0 or 1, as in the classic recipe. Where channels survived only
    the corrupted ones change, to what predicts the surviving ones best. Negative variances count as corrupted.
    Autograd does not see the writes, so it may be called anywhere in a training step.

    Args:
        model: On any device, in any mode.
        verbose: Tell of each statistic.
        write: Takes the lines.

    Returns:
        How many statistics were repaired; those of shared layers count once.

    Raises:
        TypeError: It is no module.
    """
    if is_evidently_sound(_module(model), statistics_only=True):
        return 0
    source = LiveSource(model)
    refs = _damaged_statistics(source)
    plan = RepairPlan(source=source.name, edits=tuple(_planned(source, refs)))
    if verbose:
        for ref in refs:
            write(f"[SANITIZE] Resetting corrupted {_classic_kind(ref)}: {_classic_name(ref)}")
    apply_plan(plan, source, {})
    return len(refs)


def configure_bn_for_stability(model: nn.Module, momentum: float | None = 0.01, eps: float = 1e-3) -> int:
    """Set momentum and eps of every BatchNorm, and of every InstanceNorm that tracks statistics.

    Args:
        model: Right after it is made.
        momentum: Share of each batch in the running statistics, from 0 to 1; None averages all batches alike.
        eps: Added to variances; above 0.

    Returns:
        How many layers were set; shared ones count once.

    Raises:
        TypeError: It is no module.
        UserError: A value is out of range.
    """
    if momentum is not None and not 0 <= momentum <= 1:
        raise UserError(f"momentum is {momentum}. Pass a number from 0 to 1, or None for a plain average.")
    if not 0 < eps < float("inf"):
        raise UserError(f"eps is {eps}. Pass a number above 0, such as 1e-3.")
    layers = [layer for layer in _module(model).modules() if normalises_by_statistics(layer)]
    for layer in layers:
        layer.momentum, layer.eps = momentum, eps  # type: ignore[assignment]  # a module's own attributes
    return len(layers)


def normalises_by_statistics(layer: nn.Module) -> bool:
    """Return whether a layer is a BatchNorm, torch's own or like it, or an InstanceNorm that tracks."""
    if isinstance(layer, _BatchNorm):
        return True
    if isinstance(layer, _NormBase):
        return bool(layer.track_running_stats)
    has_statistics = all(name in layer._buffers for name in STATISTICS)
    return has_statistics and hasattr(layer, "momentum") and hasattr(layer, "eps")


def _module(model: object) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"Got a {type(model).__name__}. Pass a torch.nn.Module; torchmend.diagnose and torchmend.repair "
            "also take state dicts."
        )
    return model


def _errors(source: LiveSource) -> list[Finding]:
    return [finding for finding in judge(source) if finding.severity is Severity.ERROR]


def _damaged_statistics(source: LiveSource) -> list[TensorRef]:
    """Return damaged statistics in the model's order, one name for each."""
    found = {f.ref for f in _errors(source) if f.ref is not None and f.ref.role.is_statistic}
    by_storage = {ref.storage: ref for ref in reversed(source.refs) if ref in found}
    return [ref for ref in source.refs if by_storage.get(ref.storage) is ref]


def _planned(source: LiveSource, refs: Sequence[TensorRef]) -> list[Edit]:
    planner = StatisticsPlanner(source, norm_layers(source.refs), donors=lambda _: None)
    lost = [ref for ref in refs if _is_lost(source, ref)]
    return [*planner.reset(lost), *planner.plan([ref for ref in refs if ref not in lost])]


def _is_lost(source: LiveSource, ref: TensorRef) -> bool:
    """Return whether nothing is left of a statistic."""
    return bool(np.all(damaged(source.raw(ref), ref.element, nonnegative=ref.role.is_nonnegative)))


def _classic_kind(ref: TensorRef) -> str:
    return ref.leaf if ref.role.is_statistic else ref.role.value


def _classic_name(ref: TensorRef) -> str:
    return (ref.prefix or "the model itself") if ref.role.is_statistic else ref.name
