"""`torchmend diagnose`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from torchmend.cli.common import Exit, FailOn, ReportFormat, code_prefixes, complain, painter, progress_bar, say
from torchmend.doctor.diagnosing import diagnose_file
from torchmend.doctor.discovery import checkpoint_paths
from torchmend.facts.errors import SourceChangedError, TorchmendError, UserError
from torchmend.facts.findings import Diagnosis, Finding
from torchmend.reports.machine import diagnosis_data, envelope
from torchmend.reports.markdown import markdown_report
from torchmend.reports.sarif import sarif_log
from torchmend.reports.text import diagnosis_text, headline

Paths = Annotated[list[Path], typer.Argument(metavar="PATH...", help="Checkpoint files, or folders that hold some.")]
Select = Annotated[
    list[str] | None, typer.Option(metavar="CODE", help="Only findings whose code starts so (TM1, TM103). Repeatable.")
]
Ignore = Annotated[list[str] | None, typer.Option(metavar="CODE", help="No findings whose code starts so. Repeatable.")]
VerifyCrc = Annotated[
    bool,
    typer.Option(
        "--verify-crc",
        help="Also compare every checksum in the file with its bytes, in the same pass (about four times the work).",
    ),
]


Diagnosed = tuple[Diagnosis, tuple[Finding, ...]]
"""A diagnosis, and of its findings those that were asked for."""


def diagnose(
    paths: Paths,
    select: Select = None,
    ignore: Ignore = None,
    fail_on: Annotated[FailOn, typer.Option(help="Exit 1 from this severity on.")] = FailOn.ERROR,
    format: Annotated[  # noqa: A002 - the option's name
        ReportFormat, typer.Option(help="How the report is written; all but text give one document for all files.")
    ] = ReportFormat.TEXT,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="One line for each file that is not healthy.")] = False,
    verify_crc: VerifyCrc = False,
) -> None:
    """Say what is wrong in checkpoint files and what to do.

    Exits 0 when nothing is wrong, 1 when something is, 2 when a file could not be checked. Nothing that a
    file contains is ever executed, and PyTorch is not needed.
    """
    selected, ignored = code_prefixes(select), code_prefixes(ignore)
    found: list[Diagnosed] = []
    problems: list[str] = []
    for diagnosis in _diagnosed(paths, problems, verify_crc=verify_crc):
        shown = diagnosis.selected(selected, ignored)
        if format is ReportFormat.TEXT:
            _print(diagnosis, shown, quiet=quiet, first=not found)
        found.append((diagnosis, shown))
    if format is not ReportFormat.TEXT:
        say(_document(format, found, problems), nl=False)
    elif len(found) > 1 and not quiet:
        healthy = sum(each.healthy for each, _ in found)
        say(f"\n{healthy} of {len(found)} files are healthy.")
    raise typer.Exit(_exit_code(found, problems, fail_on))


def _diagnosed(paths: list[Path], problems: list[str], *, verify_crc: bool) -> Iterator[Diagnosis]:
    """Yield a diagnosis for each file; what keeps one from being made is told at once and added to `problems`."""
    for path in paths:
        try:
            files = checkpoint_paths(path) if path.is_dir() else [path]
        except UserError as error:
            _tell(error, problems)
            continue
        for file in files:
            try:
                with progress_bar(file.name) as bar:
                    diagnosis = diagnose_file(file, bar, verify_checksums=verify_crc)
            except SourceChangedError as error:
                _tell(error, problems)
            else:
                yield diagnosis


def _tell(error: TorchmendError, problems: list[str]) -> None:
    complain(f"torchmend: {error}")
    problems.append(str(error))


def _exit_code(found: list[Diagnosed], problems: list[str], fail_on: FailOn) -> Exit:
    if problems or not all(each.checked for each, _ in found):
        return Exit.UNCHECKED
    return Exit.FINDINGS if any(fail_on.is_reached(shown) for _, shown in found) else Exit.OK


def _document(format: ReportFormat, found: list[Diagnosed], problems: list[str]) -> str:  # noqa: A002 - as the option
    diagnoses, shown = [each for each, _ in found], [each for _, each in found]
    if format is ReportFormat.MARKDOWN:
        return markdown_report(diagnoses, shown, problems)
    if format is ReportFormat.SARIF:
        return json.dumps(sarif_log(diagnoses, shown, problems), indent=2, allow_nan=False) + "\n"
    return json.dumps(envelope([diagnosis_data(*each) for each in found]), indent=2, allow_nan=False) + "\n"


def _print(diagnosis: Diagnosis, shown: tuple[Finding, ...], *, quiet: bool, first: bool) -> None:
    if quiet:
        if shown:
            say(headline(diagnosis, painter()))
        return
    say(("" if first else "\n") + diagnosis_text(diagnosis, painter(), shown))
