"""A context for any saver: what it wrote is checked as a file, and gets its name or goes to quarantine."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torchmend.doctor.diagnosing import diagnose_file
from torchmend.doctor.discovery import checkpoint_paths
from torchmend.facts.errors import UserError
from torchmend.facts.findings import Finding
from torchmend.facts.tensors import Scalar
from torchmend.keeping.alarms import sound_alarm
from torchmend.keeping.arguments import as_metric, whole_number
from torchmend.keeping.families import Family
from torchmend.keeping.steps import step_of
from torchmend.keeping.versions import Saved, Wish, draft_folder, publish


@dataclass(slots=True)
class Draft:
    """What a saver is to write, and what became of it.

    Args:
        path: Where to write a file or a folder; it has the final name, in a hidden folder.
        saved: What became of it, once the block is left.
        metric: For the best one; may be set inside the block.
    """

    path: Path
    saved: Saved | None = None
    metric: float | None = None


@contextmanager
def saving(
    path: str | os.PathLike[str],
    keep: int = 3,
    *,
    step: int | None = None,
    metric: float | None = None,
    mode: str = "max",
    strict: bool = False,
) -> Iterator[Draft]:
    """Let any saver write to `draft.path`; check what it wrote, and give it its name only if it is healthy.

    Works without PyTorch. What is corrupted, or cannot be read, goes to `.torchmend/quarantine` beside the path, and
    an error is logged; what was saved before stays. If the block raises an error, nothing is saved at all.

    Args:
        path: Of a file or a folder; its name may have `{step}` or `{step:06d}` in it.
        keep: How many healthy versions to keep, 1 or more.
        step: Of the training; needed for such a name.
        metric: With it, the best checkpoint is also kept as `<stem>_best<suffix>`. NaN and Inf never win.
        mode: Whether a higher ("max") or a lower ("min") metric is better.
        strict: Raise an error for a corrupted state.

    Yields:
        A draft; once the block is left, `draft.saved` says what became of it.

    Raises:
        UserError: The block wrote nothing to `draft.path`, or an argument makes no sense.
        CorruptedStateError: What was written is corrupted, and `strict` is set.
    """
    family = Family.of(Path(path))
    Wish(family=family, keep=keep, metric=as_metric(metric), mode=mode)
    step = None if step is None else whole_number(step, "step")
    name = family.target(step).name
    with draft_folder(family) as folder:
        draft = Draft(path=folder / name, metric=metric)
        yield draft
        if not draft.path.exists():
            raise UserError(f"Nothing was written to {draft.path}. Have the saver write to draft.path.")
        findings, scalars = _examined(draft.path)
        wish = Wish(family=family, keep=keep, metric=as_metric(draft.metric), mode=mode)
        draft.saved = publish(draft.path, wish, findings, step if step is not None else step_of(scalars))
    sound_alarm(draft.saved, wish, strict=strict)


def _examined(path: Path) -> tuple[Sequence[Finding], Sequence[Scalar]]:
    """Diagnose a file, or every checkpoint in a folder."""
    diagnoses = [diagnose_file(each) for each in (checkpoint_paths(path) if path.is_dir() else [path])]
    return (
        [finding for each in diagnoses for finding in each.findings],
        [scalar for each in diagnoses for scalar in each.scalars],
    )
