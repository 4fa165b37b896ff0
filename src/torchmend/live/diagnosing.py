"""A live model or dictionary in, a diagnosis out."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Diagnosis, Finding
from torchmend.live.source import LiveSource, ScanProgress
from torchmend.rules.judge import judge
from torchmend.rules.roles import main_container

_HARMLESS = ("a lazy parameter", "a meta tensor")
"""Tensors that hold nothing: there is nothing in them that could be damaged."""


def open_live(source: Any, optimizer: Any = None) -> LiveSource:
    """Open a live object as a source.

    Args:
        source: A module, or a dictionary as checkpoints are.
        optimizer: A torch optimizer or its state dict.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(source, nn.Module | Mapping):
        raise TypeError(f"Got a {type(source).__name__}. Pass a torch.nn.Module, a state dict or a checkpoint dict.")
    is_state = isinstance(optimizer, Mapping) and "param_groups" in optimizer and "state" in optimizer
    if optimizer is not None and not is_state and not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"Got a {type(optimizer).__name__} as optimizer. Pass a torch.optim.Optimizer or its state_dict()."
        )
    return LiveSource(source, optimizer)


def diagnose_live(source: Any, optimizer: Any = None, progress: ScanProgress | None = None) -> Diagnosis:
    """Diagnose a live model or dictionary by the rules that judge files.

    Args:
        source: A module, a state dict, or a dictionary as checkpoints are.
        optimizer: Whose state is to be judged too.
        progress: Told how far the scan is.

    Raises:
        TypeError: An argument is of another kind.
    """
    live = open_live(source, optimizer)
    live.report_to(progress)
    return diagnose_source(live)


def diagnose_source(source: LiveSource) -> Diagnosis:
    """Diagnose a live source that is already open."""
    unchecked = tuple(
        Finding(
            code=Code.UNREADABLE,
            severity=Severity.NOTE,
            message=f"This tensor was not checked: {each.reason}.",
            remedy="Check what it is made from.",
            ref=each.ref,
        )
        for each in source.skipped
        if not each.reason.startswith(_HARMLESS)
    )
    return Diagnosis(
        source=source.name,
        format=source.format,
        nbytes=source.scannable,
        scanned=source.scannable,
        main=main_container(source.refs),
        refs=source.refs,
        measures=source.measures,
        scalars=source.scalars,
        findings=(*judge(source), *unchecked),
        skipped=source.skipped,
    )
