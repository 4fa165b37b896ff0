"""A diagnosis as a report for a terminal."""

import shlex
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

from torchmend.facts.codes import Severity
from torchmend.facts.findings import Diagnosis, Finding
from torchmend.reports.summary import Summary, Verdict, is_fixable, summarise
from torchmend.reports.wording import Paint, channels, counted, counts, place, plain, shape, size
from torchmend.rules.texts import TEXTS

WIDTH = 100
MOST_PER_CODE = 6
"""Tensors shown for each code; the JSON report has all."""

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
    for _, group in groupby(listed, key=lambda f: (f.code, f.severity)):
        lines += ["", *_findings(list(group), paint)]
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


def _findings(findings: list[Finding], paint: Paint) -> Iterator[str]:
    first = findings[0]
    label = paint(f"{first.severity.label.upper()} {first.code.value}", _STYLES[first.severity])
    number = f"   in {counted(len(findings), 'tensor')}" if first.ref is not None else ""
    fix = "   fixable" if is_fixable(first) else ""
    yield f"  {label} {paint(TEXTS[first.code].title, 'bold')}{number}{paint(fix, 'green')}"
    for finding in findings[:MOST_PER_CODE]:
        if finding.ref is not None:
            yield f"    {paint(place(finding.ref), 'bold')}"
            yield f"      {_details(finding)}"
    if len(findings) > MOST_PER_CODE:
        yield f"    and {len(findings) - MOST_PER_CODE} more; --format json lists all"
    yield from _wrapped("Why ", first.message)
    yield from _wrapped("Do  ", first.remedy)


def _details(finding: Finding) -> str:
    assert finding.ref is not None
    what = ("averaged copy of a " if finding.ref.averaged else "") + finding.ref.role.value
    text = f"{what}   {shape(finding.ref)}"
    if finding.measure is not None:
        text += f"   {counts(finding.measure, nonnegative=finding.ref.role.is_nonnegative)}{channels(finding.measure)}"
    if finding.ref.role.is_optimizer and finding.ref.param:
        text += f"   of {finding.ref.param}"
    return text


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
    yield f"  Verdict    {_verdict(summary.verdict, diagnosis)}"
    if (command := next_command(diagnosis, summary.verdict)) is not None:
        yield f"  Next       {paint(command, 'bold')}"


def _corrupted(summary: Summary) -> str:
    fixable = " (fixable)" if summary.statistics else ""
    donor = " (need a donor)" if summary.weights else ""
    return (
        f"{counted(summary.statistics, 'BatchNorm statistic')}{fixable}, "
        f"{counted(summary.weights, 'weight or bias', 'weights and biases')}{donor}, "
        f"{counted(summary.optimizer, 'optimizer tensor')}"
    )


def _verdict(verdict: Verdict, diagnosis: Diagnosis) -> str:
    match verdict:
        case Verdict.HEALTHY:
            notes = len(diagnosis.findings)
            return "healthy" + (f", with {counted(notes, 'remark')}" if notes else "")
        case Verdict.FIXABLE:
            return "damaged, and repairable from this file alone"
        case Verdict.NEEDS_DONOR:
            return "damaged, and some of it only a healthy checkpoint of the same model can repair"
        case Verdict.UNCHECKED:
            return "not checked" if not diagnosis.refs else "not fully checked"


def next_command(diagnosis: Diagnosis, verdict: Verdict) -> str | None:
    """Return the command to type next, if there is one."""
    source = shlex.quote(diagnosis.source)
    if verdict is Verdict.FIXABLE:
        return f"torchmend fix {source}"
    if verdict is Verdict.NEEDS_DONOR:
        return f"torchmend fix {source} --donor OTHER_CHECKPOINT"
    return None
