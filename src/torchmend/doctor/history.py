"""All checkpoints of a run in order of training: where it went wrong, and what led up to it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from torchmend.doctor.comparing import EPSILON, compare_files
from torchmend.doctor.diagnosing import diagnose_file, diagnose_source
from torchmend.doctor.discovery import checkpoint_paths
from torchmend.doctor.file_source import FileSource
from torchmend.doctor.siblings import is_repaired
from torchmend.facts.dtypes import Kind
from torchmend.facts.errors import FileError, SourceChangedError, UserError
from torchmend.facts.findings import Diagnosis, Finding
from torchmend.facts.sources import Vector
from torchmend.facts.tensors import Role, Scalar
from torchmend.formats.registry import read_contents
from torchmend.keeping.steps import STEPS, step_under
from torchmend.measure.fetch import VECTOR_LIMIT
from torchmend.reports.comparison_history import Entry, History, Jump
from torchmend.rules.roles import plain_name

JUMP = 4.0
"""A running variance that grows by this factor between two checkpoints is reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """Files in order of training, the step of each where it is known, and what it was told from."""

    files: tuple[Path, ...]
    steps: Mapping[Path, int]
    by: str


def read_history(folder: Path) -> History:
    """Diagnose every checkpoint of a folder and find where the run went wrong.

    Repaired copies are left out. A file that cannot be read is listed and stops nothing.

    Raises:
        UserError: It is no folder, or holds no checkpoints.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Name the folder that holds the run's checkpoints.")
    every = checkpoint_paths(folder)
    files = [path for path in every if not is_repaired(path)]
    if not files:
        raise UserError(f"Every checkpoint in {folder} is a repaired copy. Name the folder of the run itself.")
    order = put_in_order({path: _scalars(path) for path in files})
    entries: list[Entry] = []
    jumps: list[Jump] = []
    last: tuple[Path, dict[str, Vector]] | None = None
    for path in order.files:
        diagnosis, variances = _examine(path)
        entries.append(_entry(path, order.steps.get(path), diagnosis, entries))
        if diagnosis.refs:
            if last is not None:
                jumps += find_jumps(last[0], last[1], path, variances)
            last = path, variances
    history = History(
        folder=folder,
        ordered_by=order.by,
        entries=tuple(entries),
        jumps=tuple(sorted(jumps, key=lambda jump: -jump.factor)),
        left_out=len(every) - len(files),
    )
    return _with_comparison(history)


def _with_comparison(history: History) -> History:
    good, bad = history.last_healthy, history.first_damaged
    if good is None or bad is None:
        return history
    try:
        return replace(history, comparison=compare_files(good.path, bad.path))
    except SourceChangedError:
        return history


# The order of training


def put_in_order(scalars: Mapping[Path, tuple[Scalar, ...] | None]) -> _Order:
    """Order files by a step number among their metadata, else by one in their names, else by time of last change.

    Args:
        scalars: The metadata of each file; None for one that cannot be read.
    """
    named = {path: number for path in scalars if (number := number_in_name(path)) is not None}
    readable = {path: found for path, found in scalars.items() if found is not None}
    told = _told_steps(readable)
    if told is not None:
        key, steps = told
        # A file that cannot be read stands where its name says, if the names agree with the metadata.
        agreeing = all(named.get(path) == step for path, step in steps.items())
        if agreeing:
            steps = {**named, **steps}
        return _Order(files=_by_steps(scalars, steps), steps=steps, by=f"{key} in the metadata")
    if len(named) == len(scalars) and (len(set(named.values())) > 1 or len(scalars) == 1):
        return _Order(files=_by_steps(scalars, named), steps=named, by="the number in the file name")
    return _Order(files=tuple(sorted(scalars, key=_changed)), steps={}, by="time of last change")


def _told_steps(readable: Mapping[Path, Sequence[Scalar]]) -> tuple[str, dict[Path, int]] | None:
    """Return the key that all readable files have with most different values, and those."""
    best: tuple[str, dict[Path, int]] | None = None
    for key in STEPS:
        steps = {path: step for path, found in readable.items() if (step := step_under(found, key)) is not None}
        different = len(set(steps.values()))
        usable = steps and len(steps) == len(readable) and (different > 1 or len(steps) == 1)
        if usable and (best is None or different > len(set(best[1].values()))):
            best = key, steps
    return best


def _by_steps(files: Mapping[Path, object], steps: Mapping[Path, int]) -> tuple[Path, ...]:
    """Sort by step; a file without one comes after the last file that is older than it."""
    ordered = sorted((path for path in files if path in steps), key=lambda path: (steps[path], *_changed(path)))
    for path in sorted((path for path in files if path not in steps), key=_changed):
        older = [at for at, other in enumerate(ordered) if _changed(other) <= _changed(path)]
        ordered.insert(max(older, default=-1) + 1, path)
    return tuple(ordered)


def _changed(path: Path) -> tuple[float, str]:
    return path.stat().st_mtime_ns, path.name


def number_in_name(path: Path) -> int | None:
    """Return the last number in a file's name, else in its folder's (`checkpoint-500/model.safetensors`)."""
    for text in (path.stem, path.parent.name):
        if numbers := re.findall(r"\d+", text):
            return int(numbers[-1])
    return None


def _scalars(path: Path) -> tuple[Scalar, ...] | None:
    try:
        contents = read_contents(path)
    except FileError:
        return None
    contents.close()
    return contents.scalars


# What each file says


def _examine(path: Path) -> tuple[Diagnosis, dict[str, Vector]]:
    """Diagnose a file, and fetch its running variances by plain name."""
    try:
        with FileSource(path) as source:
            diagnosis = diagnose_source(source)
            return diagnosis, {
                plain_name(ref.name): source.vector(ref)
                for ref in source.refs
                if ref.role is Role.RUNNING_VAR
                and not ref.averaged
                and ref.element.kind is Kind.FLOAT
                and ref.numel <= VECTOR_LIMIT
                and source.is_readable(ref)
            }
    except (FileError, SourceChangedError) as error:
        if isinstance(error, SourceChangedError):
            return Diagnosis(source=str(path)), {}
        return diagnose_file(path), {}


def _entry(path: Path, step: int | None, diagnosis: Diagnosis, earlier: Sequence[Entry]) -> Entry:
    seen = {place for entry in earlier for place in entry.damaged}
    damaged = tuple(finding for finding in diagnosis.damaged if not finding.code.means_unchecked)
    places = tuple(dict.fromkeys(finding.place for finding in damaged))
    return Entry(
        path=path,
        step=step,
        checked=diagnosis.checked and bool(diagnosis.format),
        damaged=frozenset(places),
        newly=tuple(_first_of_each(finding for finding in damaged if finding.place not in seen)),
        problem=_problem(diagnosis),
        metrics=metrics_of(diagnosis.scalars),
        holds=hash(frozenset(plain_name(ref.name) for ref in diagnosis.refs)),
    )


def _first_of_each(findings: Iterable[Finding]) -> list[Finding]:
    found: dict[str, Finding] = {}
    for finding in findings:
        found.setdefault(finding.place, finding)
    return list(found.values())


def _problem(diagnosis: Diagnosis) -> str:
    if not diagnosis.format and not diagnosis.findings:
        return "It is being written to."
    return next((f.message for f in diagnosis.findings if f.code.means_unchecked), "")


def metrics_of(scalars: Sequence[Scalar]) -> tuple[Scalar, ...]:
    """Return the metrics that stand near the root: best and validation figures, at most two."""
    found = [
        scalar
        for scalar in scalars
        if len(scalar.path) <= 2
        and isinstance(scalar.value, float)
        and re.match(r"(best|val|valid|validation|eval|test)_|.*_(psnr|ssim|acc|accuracy|loss)$", scalar.leaf)
    ]
    return tuple(found[:2])


def find_jumps(
    before: Path, old: Mapping[str, Vector], after: Path, new: Mapping[str, Vector], factor: float = JUMP
) -> list[Jump]:
    """Find running variances of which a channel grew by a factor or more between two files."""
    found = []
    for name, var in new.items():
        past = old.get(name)
        if past is None or past.shape != var.shape:
            continue
        sound = np.isfinite(past) & np.isfinite(var) & (past >= 0) & (var >= 0)
        if not sound.any():
            continue
        with np.errstate(over="ignore"):
            growth = np.where(sound, var + EPSILON, 0.0) / (np.where(sound, past, 0.0) + EPSILON)
        if (most := float(growth.max())) >= factor:
            layer, channel = name.rpartition(".")[0], int(growth.argmax())
            number = int(np.count_nonzero(growth >= factor))
            found.append(Jump(before=before, after=after, layer=layer, factor=most, channel=channel, channels=number))
    return found
