"""`torchmend fix`."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from torchmend.cli.common import Exit, Format, painter, progress_bar, say
from torchmend.doctor.fixing import FixOptions, FixResult, fix_file
from torchmend.repairs.planning import Strategy
from torchmend.reports.machine import Json, diagnosis_data, envelope, plan_data
from torchmend.reports.repair_text import plan_text
from torchmend.reports.summary import summarise
from torchmend.reports.text import diagnosis_text, headline

Source = Annotated[
    Path, typer.Argument(metavar="PATH", help="The damaged checkpoint. It is only read, unless --in-place.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="PATH", help="Where the result goes [default: NAME_FIXED beside the source]."
    ),
]
InPlace = Annotated[bool, typer.Option("--in-place", help="Replace the source; it is kept as NAME.bak.")]
Donors = Annotated[
    list[Path] | None,
    typer.Option(metavar="PATH", help="A healthy checkpoint of the same model to take tensors from. Repeatable."),
]
How = Annotated[
    Strategy,
    typer.Option(help="ladder: best values for damaged channels only. reset: the whole statistic to 0 or 1."),
]
Metadata = Annotated[
    bool,
    typer.Option("--metadata", help="Also repair numbers beside the model: learning rate, best metric, loss."),
]
ResetOptimizer = Annotated[
    bool,
    typer.Option("--reset-optimizer", help="Set all moments and step counters to zero, as a fresh optimizer."),
]
AllowPartial = Annotated[bool, typer.Option("--allow-partial", help="Repair what can be, even if something cannot.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
Report = Annotated[Format, typer.Option(help="How the report is written.")]


def fix(
    path: Source,
    output: Output = None,
    in_place: InPlace = False,
    donor: Donors = None,
    strategy: How = Strategy.LADDER,
    metadata: Metadata = False,
    reset_optimizer: ResetOptimizer = False,
    allow_partial: AllowPartial = False,
    dry_run: DryRun = False,
    force: Force = False,
    format: Report = Format.TEXT,  # noqa: A002 - the option's name
) -> None:
    """Write a repaired copy of a damaged checkpoint.

    Only the damaged elements (and checksums) change; the result is diagnosed before it gets its name. Weights
    are never invented: they need a --donor. What was done, and the old bytes, are kept beside the result as
    NAME.repair.json and NAME.repair.bin, for `torchmend unfix`. Exits 0 when the result is healthy, 1 when
    something was refused, 2 when the file could not be checked.
    """
    if in_place and output is not None:
        raise typer.BadParameter("--in-place and --output exclude each other.")
    options = FixOptions(
        output=output,
        in_place=in_place,
        donors=tuple(donor or ()),
        strategy=strategy,
        allow_partial=allow_partial,
        dry_run=dry_run,
        force=force,
        metadata=metadata,
        reset_optimizer=reset_optimizer,
    )
    with progress_bar(path.name) as bar:
        result = fix_file(path, options, bar)
    if format is Format.JSON:
        say(json.dumps(envelope([_data(result)]), indent=2))
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
        "record": str(result.record) if result.record else None,
        "verdict_after": summarise(result.after).verdict.value if result.after else None,
        "siblings": [str(path) for path in result.siblings],
    }
    return {**diagnosis_data(result.before), "repair": repair}


def _print(result: FixResult, *, dry_run: bool) -> None:
    paint = painter()
    if result.plan.is_empty and not result.plan.refused:
        say(diagnosis_text(result.before, paint))
        if result.before.checked:
            say("\nNothing to repair; no file was written.")
        return
    say(headline(result.before, paint))
    say(plan_text(result.plan, paint))
    _print_siblings(result)
    say("")
    if result.output is not None and result.after is not None:
        if result.backup:
            say(f"Kept the original as {result.backup}")
        say(f"Wrote {headline(result.after, paint)}")
        say(f"To undo it: torchmend unfix {shlex.quote(str(result.output))}{' --in-place' * bool(result.backup)}")
    elif dry_run:
        say("Dry run: nothing was written.")
    elif result.plan.refused:
        partly = "" if result.plan.is_empty else " --allow-partial repairs the rest."
        say(f"Nothing was written, since something had to be refused.{partly}")


def _print_siblings(result: FixResult) -> None:
    if not result.siblings:
        return
    say("\nHealthy checkpoints beside it that hold these tensors, newest first:")
    for path in result.siblings:
        say(f"  {path}")
    force = " --force" if result.output else ""
    donor = shlex.quote(str(result.siblings[0]))
    say(f"To use the first: torchmend fix {shlex.quote(result.before.source)} --donor {donor}{force}")
