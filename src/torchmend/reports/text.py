"""A diagnosis as a report for a terminal."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Diagnosis, Finding
from torchmend.facts.tensors import TensorRef
from torchmend.reports.summary import Cure, Summary, Verdict, cure, next_command, remedy, sound_copies, summarise
from torchmend.reports.wording import (
    Paint,
    channels,
    counted,
    counts,
    extra,
    place,
    plain,
    shape,
    shown_value,
    size,
    what,
)
from torchmend.rules.texts import TEXTS

WIDTH = 100
MOST_PER_CODE = 6
"""Tensors shown for each code; the JSON report has all."""
MOST_PER_NOTE = 3

_STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
_VERDICT_STYLES = {Verdict.HEALTHY: "green", Verdict.FIXABLE: "yellow"}


def diagnosis_text(diagnosis: Diagnosis, paint: Paint = plain, shown: Sequence[Finding] | None = None) -> str:
    """Render a diagnosis, without a final newline.

    Args:
        diagnosis: All of it; figures and verdict are of the whole.
        paint: Colours words.
        shown: The findings to list; all when None.
    """
    listed = diagnosis.findings if shown is None else shown
    summary = summarise(diagnosis)
    lines = [headline(diagnosis, paint)]
    copied = sound_copies(diagnosis)
    for group in _grouped(listed, copied):
        lines += ["", *_findings(group, copied, paint)]
    lines += ["", *_closing(diagnosis, summary, paint)]
    if hidden := len(diagnosis.findings) - len(listed):
        lines.append(f"  Not shown  {counted(hidden, 'finding')}, left out by --select or --ignore")
    return "\n".join(lines)


def headline(diagnosis: Diagnosis, paint: Paint = plain) -> str:
    """Render the one line that says how a file is."""
    verdict = summarise(diagnosis).verdict
    word = paint(verdict.value.upper(), _VERDICT_STYLES.get(verdict, "red"))
    if verdict is Verdict.UNCHECKED and not diagnosis.refs:
        return f"{paint(diagnosis.source, 'bold')}: {word}"
    details = ", ".join([diagnosis.format, size(diagnosis.nbytes), counted(len(diagnosis.refs), "tensor")])
    return f"{paint(diagnosis.source, 'bold')}: {word} ({details})"


def _grouped(findings: Sequence[Finding], copied: frozenset[TensorRef]) -> list[list[Finding]]:
    """Gather findings by severity, code and what to do; the worst first, otherwise in their order."""
    groups: dict[tuple[Severity, Code, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.code, remedy(finding, copied)), []).append(finding)
    return sorted(groups.values(), key=lambda group: -group[0].severity)


def _findings(findings: list[Finding], copied: frozenset[TensorRef], paint: Paint) -> Iterator[str]:
    first = findings[0]
    most = MOST_PER_NOTE if first.severity is Severity.NOTE else MOST_PER_CODE
    label = paint(f"{first.severity.label.upper()} {first.code.value}", _STYLES[first.severity])
    yield f"  {label} {paint(TEXTS[first.code].title, 'bold')}{_number(findings)}{_cure(findings, copied, paint)}"
    for finding in findings[:most]:
        yield from _place(finding, paint)
    if len(findings) > most:
        yield f"    and {len(findings) - most:,} more; --format json lists all"
    yield from _wrapped("Why ", first.message)
    yield from _wrapped("Do  ", remedy(first, copied))


def _number(findings: list[Finding]) -> str:
    if all(f.ref is not None for f in findings):
        return f"   in {counted(len(findings), 'tensor')}"
    if all(f.scalar is not None for f in findings):
        return f"   in {counted(len(findings), 'number')}"
    return f"   in {counted(len(findings), 'place')}" if len(findings) > 1 else ""


def _cure(findings: list[Finding], copied: frozenset[TensorRef], paint: Paint) -> str:
    cures = Counter(cure(finding, copied) for finding in findings)
    if len(cures) == 1:
        (only,) = cures
        return paint(f"   {only.value}", "green") if only in (Cure.FILE, Cure.METADATA) else ""
    fixable = cures[Cure.FILE] + cures[Cure.METADATA]
    return paint(f"   {fixable:,} of them fixable", "green") if fixable else ""


def _place(finding: Finding, paint: Paint) -> Iterator[str]:
    """Render where a finding is and what was seen there: one line in a note, else two or three."""
    detail = extra(finding)
    if finding.ref is not None and finding.severity is Severity.NOTE:
        yield f"    {paint(place(finding.ref), 'bold')}   {detail or _details(finding)}"
        return
    if finding.ref is not None:
        yield f"    {paint(place(finding.ref), 'bold')}"
        yield f"      {_details(finding)}"
    elif finding.scalar is not None:
        yield f"    {paint(place(finding.scalar), 'bold')} = {shown_value(finding.scalar.value)}"
    if detail:
        yield f"      {detail}"


def _details(finding: Finding) -> str:
    ref, measure = finding.ref, finding.measure
    assert ref is not None
    parts = [what(ref), shape(ref)]
    if measure is not None and (text := counts(measure, nonnegative=ref.role.is_nonnegative)):
        parts.append(text + channels(measure))
    if ref.role.is_optimizer and ref.param:
        parts.append(f"of {ref.param}")
    return "   ".join(parts)


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"    {label} ", subsequent_indent=" " * 9, break_long_words=False)


def _closing(diagnosis: Diagnosis, summary: Summary, paint: Paint) -> Iterator[str]:
    if diagnosis.refs:
        parts = [
            counted(number, f"entry in {name or 'the root'}", f"entries in {name or 'the root'}")
            for name, number in sorted(summary.entries.items(), key=lambda item: item[0] != diagnosis.main)
        ]
        more = f" and {counted(len(parts) - 3, 'more container')}" if len(parts) > 3 else ""
        yield f"  Seen       {', '.join(parts[:3])}{more}; {size(diagnosis.scanned)} of numbers looked at"
        yield f"  Corrupted  {_corrupted(summary)}"
    if diagnosis.skipped:
        yield f"  Skipped    {counted(len(diagnosis.skipped), 'tensor')}: {diagnosis.skipped[0].reason}"
    yield f"  Verdict    {verdict_text(summary.verdict, diagnosis)}"
    if (command := next_command(diagnosis)) is not None:
        yield f"  Next       {paint(command, 'bold')}"


def _corrupted(summary: Summary) -> str:
    fixable = " (fixable)" if summary.statistics else ""
    parts = [
        f"{counted(summary.statistics, 'BatchNorm statistic')}{fixable}",
        f"{counted(summary.weights, 'weight or bias', 'weights and biases')}{_needs(summary)}",
        counted(summary.optimizer, "optimizer tensor"),
    ]
    if summary.metadata:
        parts.append(counted(summary.metadata, "number beside the model", "numbers beside the model"))
    return ", ".join(parts)


def _needs(summary: Summary) -> str:
    if not summary.weights:
        return ""
    if not summary.from_donor:
        return " (fixable)"
    number = "" if summary.from_donor == summary.weights else f"{summary.from_donor:,} "
    return f" ({number}need a donor)"


def verdict_text(verdict: Verdict, diagnosis: Diagnosis) -> str:
    """Write a verdict in a few plain words."""
    match verdict:
        case Verdict.HEALTHY:
            notes = len(diagnosis.findings)
            return "healthy" + (f", with {counted(notes, 'remark')}" if notes else "")
        case Verdict.FIXABLE:
            return "damaged, and repairable from this file alone"
        case Verdict.NEEDS_DONOR if next_command(diagnosis) is None:
            return "damaged, in a place that is not patched"
        case Verdict.NEEDS_DONOR:
            return "damaged, and some of it only a healthy checkpoint of the same model can repair"
        case Verdict.UNTRUSTED:
            return "do not trust this file: what is wrong with it no repair of its numbers can mend"
        case Verdict.UNCHECKED:
            return "not checked" if not diagnosis.refs else "not fully checked"
