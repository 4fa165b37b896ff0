"""Diagnoses as Markdown: for a comment on a pull request or the summary of a CI job."""

import re
from collections.abc import Iterator, Sequence

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Diagnosis, Finding
from torchmend.facts.tensors import TensorRef
from torchmend.reports.summary import Verdict, next_command, remedy, sound_copies, summarise
from torchmend.reports.wording import counted, counts, extra, place, shown_value, size
from torchmend.rules.texts import TEXTS

MOST_ROWS = 10
"""Rows for each code in a file."""

FOLD_FROM = 5
"""A table with more rows than this is folded."""

MOST_FILES = 50
"""Files that get a row; the worst come first."""

_ORDER = (Verdict.UNCHECKED, Verdict.UNTRUSTED, Verdict.NEEDS_DONOR, Verdict.FIXABLE, Verdict.HEALTHY)
_HEADER = "| code | severity | where | what was seen | what to do |\n|---|---|---|---|---|"

Pair = tuple[Diagnosis, Sequence[Finding]]


def markdown_report(
    diagnoses: Sequence[Diagnosis],
    shown: Sequence[Sequence[Finding]] | None = None,
    problems: Sequence[str] = (),
) -> str:
    """Render diagnoses as GitHub-flavoured Markdown, with one newline at the end.

    Args:
        diagnoses: The files.
        shown: For each diagnosis, the findings to list; all when None.
        problems: What else kept files from being checked, one sentence each.
    """
    listed = [each.findings for each in diagnoses] if shown is None else shown
    pairs: list[Pair] = sorted(
        zip(diagnoses, listed, strict=True), key=lambda pair: _ORDER.index(summarise(pair[0]).verdict)
    )
    blocks = [f"## {_headline(diagnoses, problems)}"]
    blocks += [f"**Not checked:** {_prose(problem)}" for problem in problems]
    if pairs:
        blocks.append("\n".join(_files(pairs)))
    blocks += [_file(*pair) for pair in pairs[:MOST_FILES] if pair[1]]
    commands = [command for each, _ in pairs if (command := next_command(each)) is not None]
    if commands:
        blocks.append(f"Next: {_code(commands[0])}")
    return "\n\n".join(blocks) + "\n"


def _headline(diagnoses: Sequence[Diagnosis], problems: Sequence[str]) -> str:
    if not diagnoses:
        return "Checkpoints: nothing was checked"
    bad = sum(each.checked and not each.healthy for each in diagnoses)
    unchecked = sum(not each.checked for each in diagnoses)
    if not bad and not unchecked and not problems:
        number = "the file is" if len(diagnoses) == 1 else f"all {len(diagnoses):,} files are"
        return f"Checkpoints: {number} healthy"
    parts = [f"{number:,} {word}" for number, word in ((bad, "damaged"), (unchecked, "could not be checked")) if number]
    if not parts:
        return "Checkpoints: not everything could be checked"
    return f"Checkpoints: of {counted(len(diagnoses), 'file')}, {' and '.join(parts)}"


def _files(pairs: Sequence[Pair]) -> Iterator[str]:
    yield "| file | verdict | errors | warnings | notes | tensors | size |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for diagnosis, findings in pairs[:MOST_FILES]:
        verdict = summarise(diagnosis).verdict
        word = verdict.value if verdict is Verdict.HEALTHY else f"**{verdict.value}**"
        numbers = [
            sum(f.severity is severity for f in findings)
            for severity in (Severity.ERROR, Severity.WARNING, Severity.NOTE)
        ]
        figures = " | ".join(f"{number:,}" for number in (*numbers, len(diagnosis.refs)))
        yield f"| {_cell_code(diagnosis.source)} | {word} | {figures} | {size(diagnosis.nbytes)} |"
    if len(pairs) > MOST_FILES:
        yield f"\nand {counted(len(pairs) - MOST_FILES, 'more file')}; `--format json` lists all"


def _file(diagnosis: Diagnosis, findings: Sequence[Finding]) -> str:
    rows, left = _rows(findings, sound_copies(diagnosis))
    table = "\n".join([_HEADER, *rows])
    if left:
        table += f"\n\nand {counted(left, 'more finding')}; `--format json` lists all"
    heading = f"### {_code(diagnosis.source)}"
    if len(rows) <= FOLD_FROM:
        return f"{heading}\n\n{table}"
    return f"{heading}\n\n<details>\n<summary>{counted(len(findings), 'finding')}</summary>\n\n{table}\n\n</details>"


def _rows(findings: Sequence[Finding], copied: frozenset[TensorRef]) -> tuple[list[str], int]:
    """Return the table's rows, errors first, and how many findings were left out."""
    seen: dict[tuple[Code, Severity], int] = {}
    rows = []
    for finding in sorted(findings, key=lambda f: -f.severity):
        key = (finding.code, finding.severity)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= MOST_ROWS:
            rows.append(_row(finding, remedy(finding, copied)))
    return rows, len(findings) - len(rows)


def _row(finding: Finding, to_do: str) -> str:
    code = f"{finding.code.value} {TEXTS[finding.code].title}"
    return f"| {code} | {finding.severity.label} | {_where(finding)} | {_seen(finding)} | {_prose(to_do)} |"


def _where(finding: Finding) -> str:
    if finding.ref is not None:
        return _cell_code(place(finding.ref))
    return _cell_code(place(finding.scalar)) if finding.scalar is not None else "the file"


def _seen(finding: Finding) -> str:
    """Write what was counted; for the file itself, what is wrong with it."""
    if finding.scalar is not None:
        parts = [shown_value(finding.scalar.value), extra(finding)]
    elif finding.ref is not None:
        figures = ""
        if finding.measure is not None:
            figures = counts(finding.measure, nonnegative=finding.ref.role.is_nonnegative).replace("   ", ", ")
        parts = [figures, finding.detail]
    else:
        parts = [finding.message, finding.detail]
    return _prose("; ".join(filter(None, parts)))


def _prose(text: str) -> str:
    """Escape what Markdown, a table or HTML would read as markup; code between backticks stays code."""
    pieces = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(_cell_code(each[1:-1]) if at % 2 else _escaped(each) for at, each in enumerate(pieces))


def _escaped(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#@])", r"\\\1", text)


def _code(text: str) -> str:
    """Write text as a code span; the fence is longer than any run of backticks in it."""
    text = " ".join(text.split())
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _cell_code(text: str) -> str:
    """Write text as a code span in a table, where a pipe must be escaped even in code."""
    return _code(text).replace("|", "\\|")
