"""Save a state as `torch.save` does, if it is healthy: checked, atomic, rotated."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchmend.facts.errors import UserError
from torchmend.facts.findings import Finding
from torchmend.facts.tensors import Scalar
from torchmend.keeping.alarms import sound_alarm
from torchmend.keeping.arguments import as_metric, whole_number
from torchmend.keeping.families import Family
from torchmend.keeping.steps import step_of
from torchmend.keeping.versions import Saved, Wish, draft_folder, publish
from torchmend.live.diagnosing import diagnose_source
from torchmend.live.screening import are_evidently_sound
from torchmend.live.source import LiveSource
from torchmend.live.walk import Found, find
from torchmend.rules.metadata import SMALLEST_SCALE


def save(
    state: Any,
    path: str | os.PathLike[str],
    keep: int = 3,
    *,
    step: int | None = None,
    metric: float | Tensor | None = None,
    mode: str = "max",
    strict: bool = False,
) -> Saved:
    """Save a state as `torch.save` does, but only under its name if it is healthy, and never half.

    A corrupted state goes to `.torchmend/quarantine` beside the path, an error is logged, and what was saved before
    stays. The file is written under another name, flushed to the disk and then renamed. Older healthy versions are kept
    as `<stem>.<number><suffix>`; with `{step}` in the name, every step has its own. What was not saved by this
    function is never removed. One process at a time may save under a name: under torch.distributed, rank 0.

    Args:
        state: What `torch.save` takes: a dictionary of state dicts, a module, anything that can be pickled. Tensors on
            any device. What is in objects of other classes is saved, but not checked.
        path: Its name may have `{step}` or `{step:06d}` in it.
        keep: How many healthy versions to keep, 1 or more.
        step: Of the training; else taken from the state ("global_step", "iteration", "step", ...) if it is there.
        metric: With it, the best checkpoint is also kept as `<stem>_best<suffix>`. NaN and Inf never win.
        mode: Whether a higher ("max") or a lower ("min") metric is better.
        strict: Raise an error for a corrupted state.

    Returns:
        What became of the state.

    Raises:
        UserError: An argument makes no sense, or the path is that of a folder.
        CorruptedStateError: The state is corrupted, and `strict` is set. It is in quarantine.
        OSError: The disk is full, or the folder cannot be written to. Nothing half-written is left.
    """
    wish = Wish(family=Family.of(Path(path)), keep=keep, metric=as_metric(metric), mode=mode)
    given = None if step is None else whole_number(step, "step")
    findings, scalars = examined(state)
    step = given if given is not None else step_of(scalars)
    target = wish.family.target(step)
    if target.is_dir():
        raise UserError(f"{target} is a folder. Name a file, such as {target / 'last.pt'}.")
    with draft_folder(wish.family) as folder:
        _write(state, folder / target.name)
        saved = publish(folder / target.name, wish, findings, step)
    sound_alarm(saved, wish, strict=strict)
    return saved


def _write(state: Any, path: Path) -> None:
    """Have `torch.save` write a file.

    Where its own writer fails, as on a full disk, it does not say why; through a file of Python's it does.
    """
    try:
        torch.save(state, path)
    except RuntimeError:
        try:
            with path.open("wb") as file:
                torch.save(state, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def examined(state: Any) -> tuple[Sequence[Finding], Sequence[Scalar]]:
    """Return what is wrong with a state, and its numbers; only what a quick look accuses is looked at closely."""
    known = state if isinstance(state, nn.Module | Mapping) else {"state": state}
    found = find(known)
    if are_evidently_sound((leaf.name, leaf.tensor) for leaf in found.leaves) and not _is_odd(found):
        return (), found.scalars
    return diagnose_source(LiveSource(known)).findings, found.scalars


def _is_odd(found: Found) -> bool:
    """Return whether a number beside the tensors has to be looked at closely."""
    for scalar in found.scalars:
        if isinstance(scalar.value, float) and not math.isfinite(scalar.value):
            return True
        if scalar.leaf == "scale" and isinstance(scalar.value, int | float) and scalar.value < SMALLEST_SCALE:
            return True
    scales = (leaf.tensor for leaf in found.leaves if leaf.name.rpartition(".")[2] in ("scale", "_scale"))
    return any(scale.numel() == 1 and float(scale.detach()) < SMALLEST_SCALE for scale in scales)
