"""What the commands share: colours, the progress bar, choosing findings, exit codes."""

import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum, StrEnum

import typer

from torchmend.doctor.file_source import ScanProgress
from torchmend.facts.codes import Code, Severity
from torchmend.facts.errors import UserError
from torchmend.facts.findings import Finding
from torchmend.reports.wording import Paint, harmless, plain

BAR_FROM_BYTES = 64 << 20
"""Below this a scan is over before a bar could be read."""


class Exit(IntEnum):
    """What every command returns."""

    OK = 0
    FINDINGS = 1
    UNCHECKED = 2
    INTERRUPTED = 130
    TERMINATED = 143


class Format(StrEnum):
    """How a report is written."""

    TEXT = "text"
    JSON = "json"


class ReportFormat(StrEnum):
    """How a diagnosis is written: as every report, and for the machinery around pull requests."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    MARKDOWN = "markdown"


class FailOn(StrEnum):
    """From which severity on findings make a command fail."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"
    NEVER = "never"

    def is_reached(self, findings: Iterable[Finding]) -> bool:
        """Return whether one of the findings is bad enough."""
        return self is not FailOn.NEVER and any(f.severity >= Severity[self.name] for f in findings)


def say(text: str, *, nl: bool = True) -> None:
    """Write to standard output, with control characters that names in a file may hold made visible."""
    typer.echo(harmless(text), nl=nl)


def complain(message: str) -> None:
    """Write a message to standard error."""
    typer.echo(harmless(message), err=True)


def use_any_encoding() -> None:
    """Have names that the terminal's encoding lacks written as escapes, where they would raise an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def painter() -> Paint:
    """Return a function that colours text, or one that does not where nobody would see it."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return plain
    return lambda text, style: typer.style(text, fg=None if style == "bold" else style, bold=True)


@contextmanager
def progress_bar(label: str) -> Iterator[ScanProgress | None]:
    """Give a callback that draws a bar on standard error, or None where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None, visible=False)

        def advance(done: int, total: int) -> None:
            bar.update(task, advance=done, total=total, visible=total >= BAR_FROM_BYTES)

        yield advance


def code_prefixes(prefixes: Iterable[str] | None) -> tuple[str, ...]:
    """Return the prefixes in capitals; raise UserError for one that fits no code."""
    capitals = tuple(prefix.upper() for prefix in prefixes or ())
    for prefix in capitals:
        if not any(code.value.startswith(prefix) for code in Code):
            legal = ", ".join(code.value for code in Code)
            raise UserError(f"No code starts with {prefix!r}. The codes are {legal}.")
    return capitals
