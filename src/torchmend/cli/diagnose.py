"""`torchmend diagnose`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from torchmend.cli.common import (
    Exit,
    FailOn,
    Format,
    code_prefixes,
    complain,
    painter,
    progress_bar,
)
from torchmend.doctor.diagnosing import checkpoint_files, diagnose_file
from torchmend.facts.errors import SourceChangedError, UserError
from torchmend.facts.findings import Diagnosis, Finding
from torchmend.reports.machine import diagnosis_data, envelope
from torchmend.reports.text import diagnosis_text, headline

Paths = Annotated[list[Path], typer.Argument(metavar="PATH...", help="Checkpoint files, or folders that hold some.")]
Select = Annotated[
    list[str] | None, typer.Option(metavar="CODE", help="Only findings whose code starts so (TM1, TM103). Repeatable.")
]
Ignore = Annotated[list[str] | None, typer.Option(metavar="CODE", help="No findings whose code starts so. Repeatable.")]


def diagnose(
    paths: Paths,
    select: Select = None,
    ignore: Ignore = None,
    fail_on: Annotated[FailOn, typer.Option(help="Exit 1 from this severity on.")] = FailOn.ERROR,
    format: Annotated[Format, typer.Option(help="How the report is written.")] = Format.TEXT,  # noqa: A002 - the option's name
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="One line for each file that is not healthy.")] = False,
) -> None:
    """Say what is wrong in checkpoint files and what to do.

    Exits 0 when nothing is wrong, 1 when something is, 2 when a file could not be checked. Nothing that a
    file contains is ever executed, and PyTorch is not needed.
    """
    selected, ignored = code_prefixes(select), code_prefixes(ignore)
    diagnoses: list[tuple[Diagnosis, tuple[Finding, ...]]] = []
    incomplete = False
    for path in paths:
        try:
            for file in checkpoint_files(path) if path.is_dir() else [path]:
                with progress_bar(file.name) as bar:
                    found = diagnose_file(file, bar)
                shown = found.selected(selected, ignored)
                if format is Format.TEXT:
                    _print(found, shown, quiet=quiet, first=not diagnoses)
                diagnoses.append((found, shown))
        except (UserError, SourceChangedError) as error:
            complain(f"torchmend: {error}")
            incomplete = True
    if format is Format.JSON:
        typer.echo(json.dumps(envelope([diagnosis_data(*each) for each in diagnoses]), indent=2))
    elif len(diagnoses) > 1 and not quiet:
        healthy = sum(each.healthy for each, _ in diagnoses)
        typer.echo(f"\n{healthy} of {len(diagnoses)} files are healthy.")
    if incomplete or not all(each.checked for each, _ in diagnoses):
        raise typer.Exit(Exit.UNCHECKED)
    raise typer.Exit(Exit.FINDINGS if any(fail_on.is_reached(shown) for _, shown in diagnoses) else Exit.OK)


def _print(diagnosis: Diagnosis, shown: tuple[Finding, ...], *, quiet: bool, first: bool) -> None:
    if quiet:
        if shown:
            typer.echo(headline(diagnosis, painter()))
        return
    typer.echo(("" if first else "\n") + diagnosis_text(diagnosis, painter(), shown))
