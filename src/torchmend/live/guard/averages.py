"""Averaged models whose statistics nobody averaged: told when they are evaluated."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Finding
from torchmend.live.ownership import averaged_model
from torchmend.live.wrapping import EagerHook, Wrapping
from torchmend.rules.evidence import finding


def watch_average(
    average: Any, models: Sequence[nn.Module], tell: Callable[[Sequence[Finding]], None], wrapping: Wrapping
) -> None:
    """Have it told, once, when an average is evaluated whose statistics are still 0 and 1, and the models' are not.

    Args:
        average: As the guard was given it.
        models: What it averages.
        tell: Told the finding.
        wrapping: Takes the hook away again.
    """
    averaged = averaged_model(average)
    is_told = False

    def before_forward(module: nn.Module, _: Any) -> None:
        nonlocal is_told
        if module.training or is_told:
            return
        still = [each for each in _norms(averaged) if not _has_moved(each)]
        if still and any(_has_moved(each) for model in models for each in _norms(model)):
            is_told = True
            tell((_never_moved(len(still)),))

    if _norms(averaged):
        wrapping.hook(averaged.register_forward_pre_hook(EagerHook(before_forward)))


def _never_moved(count: int) -> Finding:
    detail = (
        f"{count} normalisation layers of the average still have a mean of 0 and a variance of 1; copy the model's "
        'buffers, or torchmend.recalibrate(average, batches, layers="all") before it is evaluated'
    )
    return finding(Code.STATISTIC_NEVER_MOVED, Severity.WARNING, detail=detail)


def _norms(model: nn.Module) -> list[_NormBase]:
    return [each for each in model.modules() if isinstance(each, _NormBase) and each.running_mean is not None]


def _has_moved(module: _NormBase) -> bool:
    mean, var = module.running_mean, module.running_var
    return mean is None or var is None or bool(mean.any()) or bool((var != 1).any())
