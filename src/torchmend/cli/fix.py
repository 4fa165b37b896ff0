"""`torchmend fix`."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from torchmend.cli.common import Exit, Format, painter, progress_bar
from torchmend.doctor.fixing import FixOptions, FixResult, fix_file
from torchmend.repair.planning import Strategy
from torchmend.reports.machine import Json, diagnosis_data, envelope, plan_data
from torchmend.reports.repair_text import plan_text
from torchmend.reports.summary import summarise
from torchmend.reports.text import diagnosis_text, headline


def fix(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="The damaged checkpoint. It is only read, unless --in-place.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="PATH", help="Where the result goes [default: NAME_FIXED beside the source]."
        ),
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace the source; it is kept as NAME.bak.")] = False,
    donor: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="A healthy checkpoint of the same model to take tensors from. Repeatable."),
    ] = None,
    strategy: Annotated[
        Strategy,
        typer.Option(help="ladder: best values for damaged channels only. reset: the whole statistic to 0 or 1."),
    ] = Strategy.LADDER,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Repair what can be, even if something cannot.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output.")] = False,
    format: Annotated[Format, typer.Option(help="How the report is written.")] = Format.TEXT,  # noqa: A002
) -> None:
    """Write a repaired copy of a damaged checkpoint.

    Only the damaged elements (and checksums) change; the result is diagnosed before it gets its name. Weights
    are never invented: they need a --donor. Exits 0 when the result is healthy, 1 when something was refused,
    2 when the file could not be checked.
    """
    options = FixOptions(
        output=output,
        in_place=in_place,
        donors=tuple(donor or ()),
        strategy=strategy,
        allow_partial=allow_partial,
        dry_run=dry_run,
        force=force,
    )
    if in_place and output is not None:
        raise typer.BadParameter("--in-place and --output exclude each other.")
    with progress_bar(path.name) as bar:
        result = fix_file(path, options, bar)
    if format is Format.JSON:
        typer.echo(json.dumps(envelope([_data(result)]), indent=2))
    else:
        _print(result, dry_run=dry_run)
    if not result.before.checked:
        raise typer.Exit(Exit.UNCHECKED)
    raise typer.Exit(Exit.OK if result.succeeded else Exit.FINDINGS)


def _data(result: FixResult) -> Json:
    repair = {
        **plan_data(result.plan),
        "output": str(result.output) if result.output else None,
        "backup": str(result.backup) if result.backup else None,
        "verdict_after": summarise(result.after).verdict.value if result.after else None,
        "siblings": [str(path) for path in result.siblings],
    }
    return {**diagnosis_data(result.before), "repair": repair}


def _print(result: FixResult, *, dry_run: bool) -> None:
    paint = painter()
    if result.plan.is_empty and not result.plan.refused:
        typer.echo(diagnosis_text(result.before, paint))
        if result.before.checked:
            typer.echo("\nNothing to repair; no file was written.")
        return
    typer.echo(headline(result.before, paint))
    typer.echo(plan_text(result.plan, paint))
    if result.siblings:
        typer.echo("\nHealthy checkpoints beside it that hold these tensors, newest first:")
        for path in result.siblings:
            typer.echo(f"  {path}")
        force = " --force" if result.output else ""
        donor = shlex.quote(str(result.siblings[0]))
        typer.echo(f"To use the first: torchmend fix {shlex.quote(result.before.source)} --donor {donor}{force}")
    typer.echo("")
    if result.output is not None and result.after is not None:
        if result.backup:
            typer.echo(f"Kept the original as {result.backup}")
        typer.echo(f"Wrote {headline(result.after, paint)}")
    elif dry_run:
        typer.echo("Dry run: nothing was written.")
    elif result.plan.refused:
        partly = " --allow-partial repairs the rest." if result.plan.edits else ""
        typer.echo(f"Nothing was written, since something had to be refused.{partly}")
