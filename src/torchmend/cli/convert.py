"""`torchmend convert`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from torchmend.cli.common import Exit, Format, progress_bar, say
from torchmend.doctor.converting import ConvertOptions, ConvertResult, convert_file
from torchmend.doctor.packing import LeftOut
from torchmend.doctor.writing.outputs import Layout
from torchmend.doctor.writing.sharded import parse_size
from torchmend.facts.tensors import Scalar
from torchmend.reports.machine import Json, envelope, scalar_data
from torchmend.reports.wording import MOST_LISTED, counted, one_line, place, size

_MOST_SCALARS = 4
_MOST_LEFT_OUT = 50

Source = Annotated[Path, typer.Argument(metavar="IN", help="The checkpoint. It is only read.")]
Target = Annotated[
    Path,
    typer.Argument(
        metavar="OUT",
        help="The new file: .pth, .pt, .bin, .ckpt or .safetensors; for shards a folder, or NAME.index.json in one.",
    ),
]
To = Annotated[Layout | None, typer.Option("--to", help="The format, where OUT does not tell it.")]
Container = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Only the tensors in NAME (model_state_dict), which becomes the root."),
]
ShardSize = Annotated[str, typer.Option(metavar="SIZE", help="The most bytes of tensors in one shard: 5GB, 512MiB.")]
AllowPartial = Annotated[bool, typer.Option("--allow-partial", help="Write the rest if some tensors cannot be.")]
Force = Annotated[bool, typer.Option("--force", help="Replace existing files.")]
Report = Annotated[Format, typer.Option(help="How the report is written.")]


def convert(
    path: Source,
    output: Target,
    to: To = None,
    container: Container = None,
    max_shard_size: ShardSize = "5GB",
    allow_partial: AllowPartial = False,
    force: Force = False,
    format: Report = Format.TEXT,  # noqa: A002 - the option's name
) -> None:
    """Write a checkpoint's tensors as a torch file, safetensors, or safetensors in shards.

    The safe way out of a pickle that you do not trust: nothing in it is executed, and only tensors are carried
    over, bit for bit. Damaged numbers stay damaged; see `torchmend diagnose`. Torch files that it writes load
    with weights_only=True. Exits 0 when every tensor was written, 1 when one could not be, 2 when the file could
    not be read.
    """
    options = ConvertOptions(
        to=to,
        container=container,
        max_shard_bytes=parse_size(max_shard_size),
        allow_partial=allow_partial,
        force=force,
    )
    with progress_bar(path.name) as bar:
        result = convert_file(path, output, options, bar)
    if format is Format.JSON:
        say(json.dumps(envelope([_data(result)]), indent=2))
    else:
        _print(result)
    raise typer.Exit(Exit.OK if result.succeeded else Exit.FINDINGS)


def _data(result: ConvertResult) -> Json:
    return {
        "source": str(result.source),
        "format": result.format,
        "to": result.layout.label,
        "output": str(result.output) if result.output else None,
        "files": [str(path) for path in result.files],
        "tensors": result.tensors,
        "bytes": result.nbytes,
        "refused": left_out_data(result.refused),
        "copies": [{"tensor": name, "of": other} for name, other in result.copies.items()],
        "left_behind": [scalar_data(scalar) for scalar in result.scalars],
        "subclasses": result.subclasses,
    }


def left_out_data(left_out: Sequence[LeftOut]) -> list[Json]:
    """Turn tensors that were not written into plain data."""
    return [{"tensor": each.path, "bytes": each.nbytes, "reason": each.reason} for each in left_out]


def _print(result: ConvertResult) -> None:
    if result.refused:
        say(f"{counted(len(result.refused), 'tensor')} of {result.source} cannot be written as {result.layout.label}:")
        print_left_out(result.refused)
    if result.output is None:
        rest = f"; --allow-partial writes the other {result.tensors:,}" if result.tensors else ""
        say(f"Nothing was written{rest}.")
        return
    amount = f"{counted(result.tensors, 'tensor')}, {size(result.nbytes)}"
    say(f"Wrote {result.output} ({result.layout.label}): {amount}, of {result.source} ({result.format})")
    if len(result.files) > 1:
        say(f"  in {counted(len(result.files) - 1, 'shard')}")
    if result.copies:
        say("Elements that tensors shared were written for each of them:")
        for name, other in list(result.copies.items())[:MOST_LISTED]:
            say(f"  {one_line(name)}, shared with {one_line(other)}")
        say_more(len(result.copies))
    if result.subclasses:
        say("Tensors of subclasses became plain ones; of a distributed tensor, the part that is in this file.")
    if result.scalars:
        say(f"Left behind: {scalars_text(result.scalars)}")


def scalars_text(scalars: Sequence[Scalar]) -> str:
    """Write how many numbers and texts there are, and name those that stand nearest to the root."""
    nearest = sorted(scalars, key=lambda scalar: len(scalar.path))[:_MOST_SCALARS]
    more = ", ..." if len(scalars) > _MOST_SCALARS else ""
    names = ", ".join(place(scalar) for scalar in nearest)
    return f"{counted(len(scalars), 'number or text', 'numbers and texts')} ({names}{more})"


def print_left_out(left_out: Sequence[LeftOut]) -> None:
    """List tensors that were not written, the first of them."""
    for each in left_out[:_MOST_LEFT_OUT]:
        say(f"  {one_line(each.path)}  {size(each.nbytes)}: {one_line(each.reason)}")
    say_more(len(left_out), _MOST_LEFT_OUT)


def say_more(count: int, shown: int = MOST_LISTED) -> None:
    """Say how many entries a list has beyond those that are shown."""
    if count > shown:
        say(f"  and {count - shown:,} more (--format json lists all)")
