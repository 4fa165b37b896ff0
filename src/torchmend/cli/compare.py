"""`torchmend compare`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from torchmend.cli.common import Exit, Format, painter, progress_bar, say
from torchmend.doctor.comparing import compare_files
from torchmend.doctor.history import read_history
from torchmend.facts.errors import UserError
from torchmend.reports.comparison import Comparison
from torchmend.reports.comparison_history import history_data, history_text
from torchmend.reports.comparison_json import comparison_data
from torchmend.reports.comparison_text import TOP, comparison_text
from torchmend.reports.inspection import name_filter
from torchmend.reports.machine import Json, envelope
from torchmend.reports.text import diagnosis_text

Filter = Annotated[
    str | None, typer.Option("--filter", metavar="TEXT", help="Only names that contain this, or match it (*.bn1.*).")
]


def compare(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="A B", help="Two checkpoint files, the earlier one first.")
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Instead: all checkpoints of a run, and where it went wrong."),
    ] = None,
    name: Filter = None,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="The most lines in each section.")] = TOP,
    format: Annotated[Format, typer.Option(help="How the report is written.")] = Format.TEXT,  # noqa: A002
) -> None:
    """Say what changed between two checkpoints, or where a run went wrong.

    Exits 0 when nothing broke, 1 when something that was sound in A is damaged in B (with --history: when a
    checkpoint is damaged), 2 when a file could not be read.
    """
    given = paths or []
    if history is not None:
        if given or name is not None:
            raise UserError("--history takes one folder and neither two files nor --filter.")
        _history(history, top, format)
    if len(given) != 2:
        raise UserError(
            f"Comparing takes two checkpoint files, and {len(given)} {'was' if len(given) == 1 else 'were'} given. "
            "For a whole run: torchmend compare --history FOLDER."
        )
    with progress_bar(given[1].name) as bar:
        found = compare_files(given[0], given[1], bar, name_filter(name) if name is not None else None)
    if format is Format.JSON:
        _echo_json(comparison_data(found))
    else:
        say(_text(found, top))
    if not found.checked:
        raise typer.Exit(Exit.UNCHECKED)
    raise typer.Exit(Exit.FINDINGS if found.broke else Exit.OK)


def _text(found: Comparison, top: int) -> str:
    if found.changes or (found.before.format and found.after.format):
        return comparison_text(found, painter(), top)
    unreadable = [each for each in (found.before, found.after) if not each.checked]
    return "\n\n".join(diagnosis_text(each, painter()) for each in unreadable)


def _history(folder: Path, top: int, format: Format) -> None:  # noqa: A002 - the option's name
    found = read_history(folder)
    if format is Format.JSON:
        _echo_json(history_data(found))
    else:
        say(history_text(found, painter(), top))
    if not found.checked:
        raise typer.Exit(Exit.UNCHECKED)
    raise typer.Exit(Exit.FINDINGS if found.first_damaged else Exit.OK)


def _echo_json(data: Json) -> None:
    say(json.dumps(envelope([data]), indent=2, allow_nan=False))
