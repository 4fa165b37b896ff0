"""`torchmend salvage`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from torchmend.cli.common import Exit, Format, progress_bar, say
from torchmend.cli.convert import left_out_data, print_left_out, say_more, scalars_text
from torchmend.doctor.salvaging import SalvageOptions, SalvageResult, salvage_file
from torchmend.doctor.writing.outputs import Layout
from torchmend.reports.machine import Json, envelope, scalar_data
from torchmend.reports.wording import MOST_LISTED, counted, one_line, size

Source = Annotated[Path, typer.Argument(metavar="PATH", help="The cut or damaged checkpoint. It is only read.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        help="Where the tensors go: .pth, .safetensors, ... [default: NAME_SALVAGED beside the source].",
    ),
]
To = Annotated[Layout | None, typer.Option("--to", help="The format, where the output's name does not tell it.")]
KeepSuspect = Annotated[
    bool, typer.Option("--keep-suspect", help="Recover tensors too whose checksum says that their bytes changed.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace existing files.")]
Report = Annotated[Format, typer.Option(help="How the report is written.")]


def salvage(
    path: Source,
    output: Output = None,
    to: To = None,
    keep_suspect: KeepSuspect = False,
    force: Force = False,
    format: Report = Format.TEXT,  # noqa: A002 - the option's name
) -> None:
    """Recover the whole tensors of a file that was cut off or lost its directory.

    Every tensor that lies before the cut is written to a new file under its name; one that is not there as a
    whole is listed as lost. Numbers and parameter groups are not written. Exits 0 when every tensor was
    recovered, 1 when some are lost, 2 when nothing could be recovered.
    """
    options = SalvageOptions(output=output, to=to, keep_suspect=keep_suspect, force=force)
    with progress_bar(path.name) as bar:
        result = salvage_file(path, options, bar)
    if format is Format.JSON:
        say(json.dumps(envelope([_data(result)]), indent=2))
    else:
        _print(result)
    if result.output is None:
        raise typer.Exit(Exit.UNCHECKED)
    raise typer.Exit(Exit.FINDINGS if result.lost else Exit.OK)


def _data(result: SalvageResult) -> Json:
    return {
        "source": str(result.source),
        "format": result.format,
        "problem": result.problem or None,
        "to": result.layout.label,
        "output": str(result.output) if result.output else None,
        "recovered": list(result.recovered),
        "bytes": result.nbytes,
        "lost": left_out_data(result.lost),
        "suspect": list(result.suspect),
        "scalars": [scalar_data(scalar) for scalar in result.scalars],
        "optimizers": list(result.optimizers),
    }


def _print(result: SalvageResult) -> None:
    say(f"{result.source} ({result.format}): {result.problem or 'its structure is whole.'}")
    if result.lost:
        say(f"Lost: {counted(len(result.lost), 'tensor')}, {size(sum(each.nbytes for each in result.lost))}")
        print_left_out(result.lost)
    if result.output is None:
        say("Nothing could be recovered; no file was written.")
        return
    amount = f"{counted(len(result.recovered), 'tensor')}, {size(result.nbytes)}"
    say(f"Wrote {result.output} ({result.layout.label}): {amount}{'' if result.lost else ', all there are'}")
    if result.suspect:
        say("Their checksums say that their bytes changed, and they were kept all the same:")
        for name in result.suspect[:MOST_LISTED]:
            say(f"  {one_line(name)}")
        say_more(len(result.suspect))
    if result.scalars:
        say(f"Not written, since they are no tensors: {scalars_text(result.scalars)}")
    if result.optimizers:
        say("The parameter groups of optimizers are among them; their states came over as plain tensors.")
