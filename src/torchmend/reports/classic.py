"""The report of `diagnose_and_fix.py`, in the lines of the classic recipe."""

from collections.abc import Iterator

from torchmend.facts.codes import Severity
from torchmend.facts.findings import Diagnosis, Finding
from torchmend.facts.tensors import TensorRef
from torchmend.reports.summary import Cure, cure, is_fixable, remedy, sound_copies, summarise
from torchmend.reports.wording import counts, extra, shown_value

_RULE = "=" * 70


def classic_text(diagnosis: Diagnosis) -> str:
    """Render banner, "Parameter Analysis" and "Summary", without a final newline."""
    return "\n".join([*_banner(diagnosis), "", *_analysis(diagnosis), "", *_summary(diagnosis)])


def _banner(diagnosis: Diagnosis) -> Iterator[str]:
    yield _RULE
    yield "Checkpoint diagnosis"
    yield _RULE
    yield f"Checkpoint: {diagnosis.source}"
    for name in ("iteration", "epoch", "best_psnr", "best_ssim", "best_val_loss"):
        for scalar in diagnosis.scalars:
            if scalar.path == (name,):
                yield f"{name}: {scalar.value}"


def _analysis(diagnosis: Diagnosis) -> Iterator[str]:
    yield _RULE
    yield "Parameter Analysis"
    yield _RULE
    copied = sound_copies(diagnosis)
    if not diagnosis.findings:
        yield "Everything is finite and in range."
    for finding in sorted(diagnosis.findings, key=lambda f: -f.severity):
        yield from _corrupted(finding, diagnosis.main, copied)


def _corrupted(finding: Finding, main: str, copied: frozenset[TensorRef]) -> Iterator[str]:
    ref, measure = finding.ref, finding.measure
    if ref is None or measure is None or finding.severity is not Severity.ERROR:
        yield _in_one_line(finding, main, remedy(finding, copied))
        return
    yield f"CORRUPTED [{ref.role.value}]: {_name(finding, main)}"
    yield f"  Shape: {list(ref.shape)}"
    yield f"  NaN count: {measure.nan} / {measure.numel}"
    yield f"  Inf count: {measure.inf} / {measure.numel}"
    if ref.role.is_nonnegative and (negative := (measure.negative or 0) - measure.neg_inf):
        yield f"  Negative count: {negative} / {measure.numel}"
    if finding.detail:
        yield f"  Detail: {finding.detail}"


def _in_one_line(finding: Finding, main: str, to_do: str) -> str:
    kind = "" if finding.severity is Severity.ERROR else f" [{finding.severity.label}]"
    where = f"{name}: " if (name := _name(finding, main)) else ""
    detail = f" ({text})" if (text := extra(finding)) else ""
    return f"{finding.code.value}{kind}: {where}{finding.message} {to_do}{detail}"


def _name(finding: Finding, main: str) -> str:
    if finding.scalar is not None:
        return f"{finding.scalar.dotted} = {shown_value(finding.scalar.value)}"
    ref = finding.ref
    return ref.name if ref is not None and ref.container == main else finding.place


def _summary(diagnosis: Diagnosis) -> Iterator[str]:
    summary = summarise(diagnosis)
    copied = sound_copies(diagnosis)
    yield _RULE
    yield "Summary"
    yield _RULE
    yield f"Total parameters/buffers: {summary.main_entries}"
    yield f"Corrupted BatchNorm stats: {summary.statistics}"
    yield f"Corrupted weights/biases: {summary.weights}"
    if summary.optimizer:
        yield f"Corrupted optimizer tensors: {summary.optimizer}"
    if summary.metadata:
        yield f"Corrupted numbers beside the model: {summary.metadata}"
    if fixable := [f for f in diagnosis.damaged if is_fixable(f, copied)]:
        yield "Fixable:"
        for finding in fixable:
            yield f"  - {_name(finding, diagnosis.main)}{_counted(finding)}{_option(finding)}"


def _counted(finding: Finding) -> str:
    if finding.ref is None or finding.measure is None:
        return ""
    text = counts(finding.measure, nonnegative=finding.ref.role.is_nonnegative)
    return f" ({text})" if text else ""


def _option(finding: Finding) -> str:
    return " (with --metadata)" if cure(finding) is Cure.METADATA else ""
