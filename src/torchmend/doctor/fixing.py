"""Repair a checkpoint file: plan, copy, patch the copy, check it, and only then give it its name."""

import json
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from torchmend.doctor.copying import copy_file
from torchmend.doctor.diagnosing import diagnose_file, diagnose_source
from torchmend.doctor.file_source import FileSource, ScanProgress
from torchmend.doctor.patching import apply_plan
from torchmend.doctor.siblings import FIXED, healthy_siblings, record_of
from torchmend.facts.codes import Severity
from torchmend.facts.errors import FileError, RepairError, UserError
from torchmend.facts.findings import Diagnosis
from torchmend.facts.plans import RepairPlan, Rung
from torchmend.facts.tensors import TensorRef
from torchmend.repair.donors import Donor
from torchmend.repair.planning import Strategy, plan_repair
from torchmend.reports.machine import diagnosis_data, envelope, plan_data
from torchmend.rules.roles import main_container

_FROM_ELSEWHERE = (Rung.OTHER_LAYERS, Rung.IDENTITY)


@dataclass(frozen=True, slots=True, kw_only=True)
class FixOptions:
    """How to repair.

    Args:
        output: Where the result goes; `<name>_FIXED<suffix>` beside the source when None.
        in_place: Replace the source, and keep it as a backup.
        donors: Healthy checkpoints of the same model, tried in order.
        strategy: For normalisation statistics.
        allow_partial: Write a result even if something had to be refused.
        dry_run: Plan only.
        force: Replace an existing output.
    """

    output: Path | None = None
    in_place: bool = False
    donors: tuple[Path, ...] = ()
    strategy: Strategy = Strategy.LADDER
    allow_partial: bool = False
    dry_run: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FixResult:
    """What a repair came to.

    Args:
        before: The source's diagnosis.
        plan: What was, or would be, written.
        output: The file that was written; None when none was.
        backup: Where the source went, when it was replaced.
        after: The output's diagnosis.
        siblings: Healthy checkpoints beside the source that hold what is missing, newest first.
    """

    before: Diagnosis
    plan: RepairPlan
    output: Path | None = None
    backup: Path | None = None
    after: Diagnosis | None = None
    siblings: tuple[Path, ...] = ()

    @property
    def succeeded(self) -> bool:
        """Whether a healthy model is at hand: nothing was refused, or nothing was damaged."""
        if self.after is not None:
            return self.after.healthy
        return self.before.checked and not self.plan.refused


def fixed_name(path: Path) -> Path:
    """Return `<name>_FIXED<suffix>` beside a path."""
    return path.with_name(f"{path.stem}{FIXED}{path.suffix}")


def fix_file(path: str | Path, options: FixOptions | None = None, progress: ScanProgress | None = None) -> FixResult:
    """Repair a checkpoint file.

    The source is only read, unless `in_place`. The result appears under its name complete and checked, or
    not at all. Without damage, or when something had to be refused, nothing is written.

    Args:
        path: The file.
        options: How.
        progress: Told how far the scan is.

    Raises:
        UserError: The output exists, or a donor cannot serve.
        RepairError: The repaired copy did not pass its check; it was removed.
        SourceChangedError: The file was written to meanwhile.
        OSError: The disk is full or the folder cannot be written.
    """
    path, options = Path(path), options or FixOptions()
    with ExitStack() as stack:
        try:
            source = stack.enter_context(FileSource(path))
        except FileError:
            return FixResult(before=diagnose_file(path), plan=RepairPlan(source=str(path)))
        source.report_to(progress)
        before = diagnose_source(source)
        donors = {str(donor): stack.enter_context(_open_donor(donor, path)) for donor in options.donors}
        plan = _plan(before, source, donors, options.strategy)
        siblings = _siblings(path, plan)
        if plan.is_empty or options.dry_run or (plan.refused and not options.allow_partial):
            return FixResult(before=before, plan=plan, siblings=siblings)
        output = _output(path, options)
        with _temporary_beside(output) as temporary:
            copy_file(path, temporary)
            with temporary.open("r+b") as target, ThreadPoolExecutor(1) as pool:
                apply_plan(plan, source, target, donors)
                target.flush()
                synced = pool.submit(os.fsync, target.fileno())  # the disk writes while we check
                after = _checked(temporary, plan)
                synced.result()
            source.contents.file.check_unchanged()
            _write_record(output, before, plan)
            backup = _keep_backup(path) if options.in_place else None
            temporary.replace(output)
        after = replace(after, source=str(output))
        _sync_folder(output.parent)
    return FixResult(before=before, plan=plan, output=output, backup=backup, after=after, siblings=siblings)


def _open_donor(donor: Path, patient: Path) -> FileSource:
    if donor.exists() and donor.resolve() == patient.resolve():
        raise UserError(f"{donor} is the damaged file itself. Name another checkpoint of the same model as donor.")
    try:
        return FileSource(donor)
    except FileError as error:
        raise UserError(f"{donor} cannot be a donor: {error}") from None


def _plan(before: Diagnosis, source: FileSource, donors: dict[str, FileSource], strategy: Strategy) -> RepairPlan:
    givers = [Donor(name=name, source=each, main=main_container(each.refs)) for name, each in donors.items()]
    return plan_repair(before, source, donors=givers, strategy=strategy, pinned=source.pinned)


def _siblings(path: Path, plan: RepairPlan) -> tuple[Path, ...]:
    """Look for healthy neighbours where they would serve better than the plan does."""
    needed = [refusal.about for refusal in plan.refused if isinstance(refusal.about, TensorRef)] + [
        edit.ref for edit in plan.edits if edit.rung in _FROM_ELSEWHERE
    ]
    return healthy_siblings(path, needed) if needed else ()


def _output(path: Path, options: FixOptions) -> Path:
    if options.in_place:
        return path
    output = options.output or fixed_name(path)
    if output.is_dir():
        raise UserError(f"{output} is a folder. Name a file in it.")
    if output.exists() and output.resolve() == path.resolve():
        raise UserError(f"{output} is the source itself. Use --in-place to replace it and keep a backup.")
    if output.exists() and not options.force:
        raise UserError(f"{output} exists. Use --force to replace it.")
    if not output.parent.is_dir():
        raise UserError(f"The folder {output.parent} does not exist. Create it, or write elsewhere with -o.")
    return output


@contextmanager
def _temporary_beside(output: Path) -> Iterator[Path]:
    """Give a temporary file in the output's folder; it is gone afterwards unless it was renamed."""
    descriptor, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.", suffix=".part")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _checked(temporary: Path, plan: RepairPlan) -> Diagnosis:
    """Diagnose the patched copy: only what was refused may still be damaged."""
    after = diagnose_file(temporary)
    allowed = {refusal.place for refusal in plan.refused}
    left = [f for f in after.findings if f.severity is Severity.ERROR and f.place not in allowed]
    if left:
        raise RepairError(
            f"The repaired copy still shows {left[0].code.value}, so it was removed; the source is untouched. "
            "This is a bug in torchmend: please report it with the output of `torchmend diagnose --format json`."
        )
    return after


def _write_record(output: Path, before: Diagnosis, plan: RepairPlan) -> None:
    """Write beside the output what was done to it, complete or not at all."""
    record = record_of(output)
    with _temporary_beside(record) as temporary:
        report = envelope([{**diagnosis_data(before), "repair": plan_data(plan)}])
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        temporary.replace(record)


def _keep_backup(path: Path) -> Path:
    """Give the file a second name that is free: `<name>.bak`, `<name>.bak1`, ..."""
    number = 0
    while True:
        backup = path.with_name(f"{path.name}.bak{number or ''}")
        try:
            os.link(path, backup)
        except FileExistsError:
            number += 1
            continue
        except OSError:  # a file system without hard links
            if backup.exists():
                number += 1
                continue
            backup.touch()
            copy_file(path, backup)
        return backup


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where folders can be synced."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
