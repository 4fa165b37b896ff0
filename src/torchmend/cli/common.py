"""What the commands share: colours, the progress bar, choosing findings, exit codes."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import IntEnum, StrEnum
from pathlib import Path

import typer

from torchmend.doctor.diagnosing import ScanProgress, checkpoint_files
from torchmend.facts.codes import Code, Severity
from torchmend.facts.errors import UserError
from torchmend.facts.findings import Diagnosis
from torchmend.formats.registry import SUFFIXES
from torchmend.reports.wording import Paint, plain

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


class FailOn(StrEnum):
    """From which severity on findings make a command fail."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"
    NEVER = "never"

    def is_reached(self, diagnosis: Diagnosis) -> bool:
        """Return whether a diagnosis has a finding that is bad enough."""
        if self is FailOn.NEVER or diagnosis.worst is None:
            return False
        return diagnosis.worst >= Severity[self.name]


def complain(message: str) -> None:
    """Write a message to standard error."""
    typer.echo(message, err=True)


def painter() -> Paint:
    """Return a function that colours text, or one that does not where nobody would see it."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return plain
    styles = {"bold": {"bold": True}, "dim": {"dim": True}}
    return lambda text, style: typer.style(text, **styles.get(style, {"fg": style, "bold": True}))


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


def check_prefixes(prefixes: Iterable[str]) -> None:
    """Raise UserError for a prefix that fits no code."""
    for prefix in prefixes:
        if not any(code.value.startswith(prefix) for code in Code):
            legal = ", ".join(code.value for code in Code)
            raise UserError(f"No code starts with {prefix!r}. The codes are {legal}.")


def chosen(diagnosis: Diagnosis, select: Sequence[str], ignore: Sequence[str]) -> Diagnosis:
    """Return the diagnosis with only the findings that were asked for."""
    return replace(diagnosis, findings=diagnosis.selected(select, ignore))


def expand(paths: Iterable[Path]) -> Iterator[Path]:
    """Replace folders by the checkpoint files below them.

    Raises:
        UserError: A folder holds none.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = list(checkpoint_files(path))
        if not found:
            raise UserError(f"No checkpoint files in {path}. Looked for names that end in {', '.join(SUFFIXES)}.")
        yield from found
