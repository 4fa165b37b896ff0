"""Repair a checkpoint file: plan, copy, patch the copy, check it, and only then give it its name."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from torchmend.doctor.copies import WorkingCopy, changing_files, copy_modes, packed_records, working_copy
from torchmend.doctor.diagnosing import diagnose_file, diagnose_source
from torchmend.doctor.file_source import FileSource, ScanProgress
from torchmend.doctor.hashing import TwinHash
from torchmend.doctor.journal import Journal
from torchmend.doctor.patching import apply_plan
from torchmend.doctor.publishing import Drafts, make_drafts, publish
from torchmend.doctor.recording import FileUndo, Stamp, Undo, save_old_bytes, write_record
from torchmend.doctor.siblings import healthy_siblings, record_of, sidecar_of
from torchmend.doctor.splices import Splice, composed
from torchmend.doctor.targets import check_output, check_spared, fixed_name
from torchmend.facts.codes import Severity
from torchmend.facts.errors import FileError, RepairError, UserError
from torchmend.facts.findings import Diagnosis
from torchmend.facts.plans import RepairPlan, Rung
from torchmend.facts.tensors import TensorRef
from torchmend.keeping.drafts import sync_files, sync_folder
from torchmend.repairs.donors import Donor
from torchmend.repairs.planning import Strategy, plan_repair
from torchmend.reports.machine import diagnosis_data, plan_data
from torchmend.rules.roles import main_container

__all__ = ["FixOptions", "FixResult", "Planner", "carry_out", "fix_file", "fixed_name"]

Planner = Callable[[Diagnosis, FileSource, dict[str, FileSource]], RepairPlan]
"""Plans the repair of an opened file from its diagnosis and the opened donors, by name."""

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
        if self.plan.refused:
            return False
        return self.before.healthy or (self.before.checked and not self.plan.is_empty)


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
    chosen = options or FixOptions()
    return carry_out(path, chosen, lambda before, source, donors: _plan(before, source, donors, chosen), progress)


def carry_out(
    path: str | Path, options: FixOptions, planner: Planner, progress: ScanProgress | None = None
) -> FixResult:
    """Repair a checkpoint file by a plan that is made while it is open; otherwise as `fix_file`."""
    path = Path(path)
    with ExitStack() as drafted:
        with ExitStack() as opened:
            try:
                source = opened.enter_context(FileSource(path))
            except FileError:
                return FixResult(before=diagnose_file(path), plan=RepairPlan(source=str(path)))
            source.report_to(progress)
            before = diagnose_source(source)
            donors = {str(donor): opened.enter_context(_open_donor(donor, path)) for donor in options.donors}
            plan = planner(before, source, donors)
            result = FixResult(before=before, plan=plan, siblings=_siblings(source, plan))
            if plan.is_empty or options.dry_run or (plan.refused and not options.allow_partial):
                return result
            output = _output(source, options)
            drafts = make_drafts(output, source.contents.folder is not None, drafted)
            after = _write_drafts(drafts, output, result, source, donors)
        # Windows replaces no file that is mapped, so the maps are closed before the renames
        source.contents.check_unchanged()
        backup = publish(drafts, path, output, in_place=options.in_place, drafted=drafted)
    sync_folder(output.parent)
    opened_at = output if source.contents.folder is None else output / path.relative_to(source.contents.folder)
    after = replace(after, source=str(opened_at))
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


def _siblings(source: FileSource, plan: RepairPlan) -> tuple[Path, ...]:
    """Look for healthy neighbours where they would serve better than the plan does."""
    needed = [refusal.about for refusal in plan.refused if isinstance(refusal.about, TensorRef)] + [
        edit.ref for edit in plan.edits if edit.rung in _FROM_ELSEWHERE
    ]
    return healthy_siblings(source.contents.folder or source.path, needed) if needed else ()


def _output(source: FileSource, options: FixOptions) -> Path:
    """Return where the result goes; raise UserError if it must not go there."""
    folder = source.contents.folder
    patient = folder or source.path
    if options.in_place and folder is not None:
        raise UserError(
            f"{source.path} is a checkpoint of several files, which cannot all be replaced at one moment. "
            "Leave --in-place out: the result goes to a new folder."
        )
    output = patient if options.in_place else options.output or fixed_name(patient)
    if not options.in_place:
        check_output(output, patient, force=options.force)
    precious = options.donors if options.in_place else (patient, *options.donors)
    check_spared(output, precious, force=options.force)
    return output


def _write_drafts(
    drafts: Drafts, output: Path, result: FixResult, source: FileSource, donors: dict[str, FileSource]
) -> Diagnosis:
    """Write the copy, its record and its sidecar, see them on the disk, and return the diagnosis of the copy."""
    files = source.contents.files
    with ExitStack() as stack:
        hasher, syncer = (stack.enter_context(ThreadPoolExecutor(workers)) for workers in (2, 1))
        hashes = {
            number: stack.enter_context(TwinHash(files[number].buffer, hasher))
            for number in changing_files(result.plan, source)
        }
        copy = stack.enter_context(working_copy(source, packed_records(result.plan, source), drafts.output))
        changes = _changes(copy, apply_plan(result.plan, source, copy, donors))
        synced = syncer.submit(sync_files, copy.files)  # the disk writes while we check
        hashed = {number: hashes[number].hash_copy(copy.files[number], changes[number][0].offset) for number in changes}
        after = _checked(copy, result)
        sidecar_sha256 = save_old_bytes(
            ((files[number].buffer, splices) for number, splices in changes.items()), drafts.sidecar
        )
        undos = tuple(
            FileUndo(
                name=copy.names[number],
                source=Stamp.of(files[number].path, hashes[number].source_digest()),
                result=Stamp.of(copy.files[number], hashed[number].result(), known_as=output / copy.names[number]),
                splices=splices,
            )
            for number, splices in changes.items()
        )
        synced.result()
        undo = Undo(sidecar=sidecar_of(output).name, sidecar_sha256=sidecar_sha256, files=undos)
        write_record(drafts.record, {**diagnosis_data(result.before), "repair": plan_data(result.plan)}, undo)
        sync_files((drafts.sidecar, drafts.record))
        copy_modes(files, copy, (drafts.sidecar, drafts.record))
    return after


def _changes(copy: WorkingCopy, journals: dict[int, Journal]) -> dict[int, tuple[Splice, ...]]:
    """Return where each file that changed differs from its original."""
    found = {}
    for number in sorted({*journals, *copy.rewritten}):
        patched = journals[number].pairs() if number in journals else ()
        if splices := composed(patched, copy.rewritten.get(number, ())):
            found[number] = splices
    return found


def _checked(copy: WorkingCopy, result: FixResult) -> Diagnosis:
    """Diagnose the patched copy: only what was refused, and the file's own structure, may still be as it was."""
    after = diagnose_file(copy.opened)
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
