"""The report of `diagnose_and_fix.py`, in the lines of the classic recipe."""

from collections.abc import Iterator

from torchmend.facts.findings import Diagnosis, Finding
from torchmend.reports.summary import is_fixable, summarise
from torchmend.reports.wording import counts

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
    if not diagnosis.findings:
        yield "Everything is finite and in range."
    for finding in diagnosis.findings:
        yield from _corrupted(finding, diagnosis.main)


def _corrupted(finding: Finding, main: str) -> Iterator[str]:
    ref, measure = finding.ref, finding.measure
    if ref is None or measure is None:
        where = f"{ref.path}: " if ref else ""
        yield f"{finding.code.value}: {where}{finding.message} {finding.remedy}"
        return
    name = ref.name if ref.container == main else ref.path
    yield f"CORRUPTED [{ref.role.value}]: {name}"
    yield f"  Shape: {list(ref.shape)}"
    yield f"  NaN count: {measure.nan} / {measure.numel}"
    yield f"  Inf count: {measure.inf} / {measure.numel}"
    if ref.role.is_nonnegative and (negative := (measure.negative or 0) - measure.neg_inf):
        yield f"  Negative count: {negative} / {measure.numel}"


def _summary(diagnosis: Diagnosis) -> Iterator[str]:
    summary = summarise(diagnosis)
    fixable = [f for f in diagnosis.damaged if is_fixable(f)]
    yield _RULE
    yield "Summary"
    yield _RULE
    yield f"Total parameters/buffers: {summary.main_entries}"
    yield f"Corrupted BatchNorm stats: {summary.statistics}"
    yield f"Corrupted weights/biases: {summary.weights}"
    if summary.optimizer:
        yield f"Corrupted optimizer tensors: {summary.optimizer}"
    if fixable:
        yield "Fixable:"
        for finding in fixable:
            if finding.ref and finding.measure:
                name = finding.ref.name if finding.ref.container == diagnosis.main else finding.ref.path
                yield f"  - {name} ({counts(finding.measure, nonnegative=finding.ref.role.is_nonnegative)})"
