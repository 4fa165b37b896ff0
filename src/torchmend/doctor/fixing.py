"""Repair a checkpoint file: plan, copy, patch the copy, check it, and only then give it its name."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from torchmend.doctor.copying import copy_file
from torchmend.doctor.diagnosing import diagnose_file, diagnose_source
from torchmend.doctor.drafts import draft_beside, sweep, sync_file
from torchmend.doctor.drafts import sync_folder as _sync_folder
from torchmend.doctor.file_source import FileSource, ScanProgress
from torchmend.doctor.hashing import TwinHash
from torchmend.doctor.journal import Journal
from torchmend.doctor.patching import apply_plan
from torchmend.doctor.recording import Stamp, Undo, save_old_bytes, write_record
from torchmend.doctor.siblings import healthy_siblings, record_of, sidecar_of
from torchmend.doctor.targets import check_output, check_spared, fixed_name
from torchmend.facts.codes import Severity
from torchmend.facts.errors import FileError, RepairError, UserError
from torchmend.facts.findings import Diagnosis
from torchmend.facts.plans import RepairPlan, Rung
from torchmend.facts.tensors import TensorRef
from torchmend.repairs.donors import Donor
from torchmend.repairs.planning import Strategy, plan_repair
from torchmend.reports.machine import diagnosis_data, plan_data
from torchmend.rules.roles import main_container

__all__ = ["FixOptions", "FixResult", "fix_file", "fixed_name"]

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
        metadata: Repair numbers beside the model too: learning rate, best metric, loss.
        reset_optimizer: Set all moments and step counters to zero, as a fresh optimizer.
    """

    output: Path | None = None
    in_place: bool = False
    donors: tuple[Path, ...] = ()
    strategy: Strategy = Strategy.LADDER
    allow_partial: bool = False
    dry_run: bool = False
    force: bool = False
    metadata: bool = False
    reset_optimizer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FixResult:
    """What a repair came to.

    Args:
        before: The source's diagnosis.
        plan: What was, or would be, written.
        output: The file that was written; None when none was.
        backup: Where the source went, when it was replaced.
        record: What was done to the output and how to undo it; None when nothing was written.
        after: The output's diagnosis.
        siblings: Healthy checkpoints beside the source that hold what is missing, newest first.
    """

    before: Diagnosis
    plan: RepairPlan
    output: Path | None = None
    backup: Path | None = None
    record: Path | None = None
    after: Diagnosis | None = None
    siblings: tuple[Path, ...] = ()

    @property
    def succeeded(self) -> bool:
        """Whether a healthy file is at hand, or would be if this had been no dry run."""
        if self.after is not None:
            return self.after.healthy
        return self.before.healthy or (self.before.checked and not self.plan.is_empty and not self.plan.refused)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drafts:
    """The three files of a repair before they have their names."""

    output: Path
    record: Path
    sidecar: Path


def fix_file(path: str | Path, options: FixOptions | None = None, progress: ScanProgress | None = None) -> FixResult:
    """Repair a checkpoint file.

    The source is only read, unless `in_place`. The result appears under its name complete and checked, or
    not at all; what it takes to undo the repair stands beside it before. Without damage, or when something had
    to be refused, nothing is written.

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
    with ExitStack() as drafted:
        with ExitStack() as opened:
            try:
                source = opened.enter_context(FileSource(path))
            except FileError:
                return FixResult(before=diagnose_file(path), plan=RepairPlan(source=str(path)))
            source.report_to(progress)
            before = diagnose_source(source)
            donors = {str(donor): opened.enter_context(_open_donor(donor, path)) for donor in options.donors}
            plan = _plan(before, source, donors, options)
            result = FixResult(before=before, plan=plan, siblings=_siblings(path, plan))
            if plan.is_empty or options.dry_run or (plan.refused and not options.allow_partial):
                return result
            output = _output(path, options)
            drafts = _make_drafts(output, drafted)
            after = _write_drafts(drafts, output, result, source, donors)
        # Windows replaces no file that is mapped, so the maps are closed before the renames
        source.contents.check_unchanged()
        backup = _publish(drafts, path, output, in_place=options.in_place, drafted=drafted)
    _sync_folder(output.parent)
    after = replace(after, source=str(output))
    return replace(result, output=output, backup=backup, record=record_of(output), after=after)


def _open_donor(donor: Path, patient: Path) -> FileSource:
    if donor.exists() and donor.resolve() == patient.resolve():
        raise UserError(f"{donor} is the damaged file itself. Name another checkpoint of the same model as donor.")
    try:
        return FileSource(donor)
    except FileError as error:
        raise UserError(f"{donor} cannot be a donor: {error}") from None


def _plan(before: Diagnosis, source: FileSource, donors: dict[str, FileSource], options: FixOptions) -> RepairPlan:
    givers = [Donor(name=name, source=each, main=main_container(each.refs)) for name, each in donors.items()]
    return plan_repair(
        before,
        source,
        donors=givers,
        strategy=options.strategy,
        pinned=source.pinned,
        metadata=options.metadata,
        reset_optimizer=options.reset_optimizer,
    )


def _siblings(path: Path, plan: RepairPlan) -> tuple[Path, ...]:
    """Look for healthy neighbours where they would serve better than the plan does."""
    needed = [refusal.about for refusal in plan.refused if isinstance(refusal.about, TensorRef)] + [
        edit.ref for edit in plan.edits if edit.rung in _FROM_ELSEWHERE
    ]
    return healthy_siblings(path, needed) if needed else ()


def _output(path: Path, options: FixOptions) -> Path:
    output = path if options.in_place else options.output or fixed_name(path)
    if not options.in_place:
        check_output(output, path, force=options.force)
    precious = options.donors if options.in_place else (path, *options.donors)
    check_spared(output, precious, force=options.force)
    return output


def _make_drafts(output: Path, drafted: ExitStack) -> _Drafts:
    names = (output, record_of(output), sidecar_of(output))
    for name in names:
        sweep(name)
    draft, record, sidecar = (drafted.enter_context(draft_beside(name)) for name in names)
    return _Drafts(output=draft, record=record, sidecar=sidecar)


def _write_drafts(
    drafts: _Drafts, output: Path, result: FixResult, source: FileSource, donors: dict[str, FileSource]
) -> Diagnosis:
    """Write all three files, see them on the disk, and return the diagnosis of the repaired one."""
    journal, mapped = Journal(), source.contents.files[0]
    with TwinHash(mapped.buffer) as hashes, ThreadPoolExecutor(1) as pool:
        copy_file(source.path, drafts.output)
        with drafts.output.open("r+b") as target:
            apply_plan(result.plan, source, target, donors, journal)
            target.flush()
            synced = pool.submit(os.fsync, target.fileno())  # the disk writes while we check
            ranges = tuple((int(offset), int(length)) for offset, length in journal.ranges())
            hashed = hashes.hash_copy(drafts.output, ranges[0][0] if ranges else mapped.size)
            after = _checked(drafts.output, result)
            sidecar_sha256 = save_old_bytes(ranges, mapped.buffer, drafts.sidecar)
            undo = Undo(
                sidecar=sidecar_of(output).name,
                sidecar_sha256=sidecar_sha256,
                ranges=ranges,
                source=Stamp(path=str(source.path), nbytes=mapped.size, sha256=hashes.source_digest()),
                result=Stamp(path=str(output), nbytes=mapped.size, sha256=hashed.result()),
            )
            synced.result()
    write_record(drafts.record, {**diagnosis_data(result.before), "repair": plan_data(result.plan)}, undo)
    sync_file(drafts.sidecar)
    sync_file(drafts.record)
    for draft in (drafts.output, drafts.record, drafts.sidecar):
        shutil.copymode(source.path, draft)
    return after


def _publish(drafts: _Drafts, path: Path, output: Path, *, in_place: bool, drafted: ExitStack) -> Path | None:
    """Give the files their names, the repaired one last; return where the source went, if it was replaced."""
    placed: list[Path] = []
    backup = None
    try:
        for draft, name in ((drafts.sidecar, sidecar_of(output)), (drafts.record, record_of(output))):
            draft.replace(name)
            placed.append(name)
        if in_place:
            backup = _keep_backup(path, drafted)
            placed.append(backup)
        drafts.output.replace(output)
    except BaseException:
        if drafts.output.exists():  # the output was not replaced, so nothing may describe it
            for each in placed:
                each.unlink(missing_ok=True)
        raise
    return backup


def _checked(temporary: Path, result: FixResult) -> Diagnosis:
    """Diagnose the patched copy: only what was refused, and the file's own structure, may still be as it was."""
    after = diagnose_file(temporary)
    allowed = {refusal.place for refusal in result.plan.refused}
    structural = {finding.code for finding in result.before.findings if not finding.place}
    left = [
        finding
        for finding in after.findings
        if finding.severity is Severity.ERROR
        and (finding.place not in allowed if finding.place else finding.code not in structural)
    ]
    if left:
        raise RepairError(
            f"The repaired copy still shows {left[0].code.value}, so it was removed; the source is untouched. "
            "This is a bug in torchmend: please report it with the output of `torchmend diagnose --format json`."
        )
    return after


def _keep_backup(path: Path, drafted: ExitStack) -> Path:
    """Give the file a second name that is free: `<name>.bak`, `<name>.bak1`, ..."""
    for backup in _backup_names(path):
        try:
            os.link(path, backup)
        except FileExistsError:
            continue
        except (OSError, AttributeError):  # a system, or a file system, without hard links
            if backup.exists():
                continue
            draft = drafted.enter_context(draft_beside(backup))
            copy_file(path, draft)
            sync_file(draft)
            shutil.copystat(path, draft)
            draft.replace(backup)
        return backup
    raise AssertionError("there is always a next number")


def _backup_names(path: Path) -> Iterator[Path]:
    number = 0
    while True:
        yield path.with_name(f"{path.name}.bak{number or ''}")
        number += 1
