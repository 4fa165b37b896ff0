"""`torchmend inspect`."""

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated

import typer

from torchmend.cli.common import Exit, Format, painter, progress_bar, say
from torchmend.doctor.diagnosing import diagnose_file, diagnose_source
from torchmend.doctor.file_source import FileSource, ScanProgress
from torchmend.facts.errors import FileError
from torchmend.facts.tensors import TensorRef
from torchmend.reports.inspection import Inspection, inspection_data, name_filter
from torchmend.reports.inspection_text import View, inspection_text
from torchmend.reports.machine import envelope
from torchmend.reports.text import diagnosis_text


def inspect(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint file.")],
    depth: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Show N levels of names; folds no alike blocks.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--filter", metavar="TEXT", help="Only names that contain this, or match it (*.bn1.*)."),
    ] = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="Count every tensor in full: range, zeros, values below zero.")
    ] = False,
    format: Annotated[Format, typer.Option(help="How the report is written.")] = Format.TEXT,  # noqa: A002
) -> None:
    """Show what is in a checkpoint file, as a tree.

    Nothing is judged and nothing that the file contains is ever executed. Exits 0, or 2 when the file could
    not be read.
    """
    wanted = name_filter(name) if name is not None else None
    with progress_bar(path.name) as bar:
        found = _inspect(path, bar, stats=stats)
    diagnosis = found.diagnosis
    if format is Format.JSON:
        data = inspection_data(found, wanted) if wanted else inspection_data(found)
        say(json.dumps(envelope([data]), indent=2, allow_nan=False))
    elif not diagnosis.format:
        say(diagnosis_text(diagnosis, painter()))
    else:
        say(inspection_text(found, View(depth=depth, wanted=wanted, stats=stats), painter()))
    raise typer.Exit(Exit.OK if diagnosis.checked else Exit.UNCHECKED)


def _inspect(path: Path, progress: ScanProgress | None, *, stats: bool) -> Inspection:
    try:
        with FileSource(path) as source:
            source.count_all, source.exact = stats, True
            source.report_to(progress)
            diagnosis = diagnose_source(source)
            return Inspection(diagnosis=diagnosis, shared=_shared(source), calls=_calls(source))
    except FileError:
        return Inspection(diagnosis=diagnose_file(path, progress))


def _calls(source: FileSource) -> dict[str, str]:
    return {wanted.dotted: wanted.call or wanted.dotted for wanted in source.contents.imports}


def _shared(source: FileSource) -> dict[TensorRef, TensorRef]:
    """Map each tensor whose storage an earlier one has too to that one."""
    first: dict[Hashable, TensorRef] = {}
    shared = {}
    for ref, tensor in source.stored.items():
        if tensor.extent is None or not ref.numel:
            continue
        if (earlier := first.setdefault(tensor.extent, ref)) is not ref:
            shared[ref] = earlier
    return shared
