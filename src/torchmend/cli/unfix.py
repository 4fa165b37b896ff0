"""`torchmend unfix`."""

from pathlib import Path
from typing import Annotated

import typer

from torchmend.cli.common import say
from torchmend.doctor.undoing import unfix_file
from torchmend.reports.wording import counted

Repaired = Annotated[
    Path, typer.Argument(metavar="PATH", help="The repaired checkpoint. It is only read, unless --in-place.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        help="Where the original goes [default: NAME_ORIGINAL, without _FIXED, beside it].",
    ),
]
InPlace = Annotated[
    bool,
    typer.Option(
        "--in-place", help="Put the original in the repaired file's place and remove the record: undoes fix --in-place."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]


def unfix(path: Repaired, output: Output = None, in_place: InPlace = False, force: Force = False) -> None:
    """Undo a repair: write the file as it was before `torchmend fix`, bit for bit.

    Needs the record that fix wrote beside the repaired file, NAME.repair.json and NAME.repair.bin, and the
    repaired file as fix left it. The result is checked by its SHA-256 before it gets its name. Exits 0 when
    the original is back, 2 when it cannot be had.
    """
    if in_place and output is not None:
        raise typer.BadParameter("--in-place and --output exclude each other.")
    result = unfix_file(path, output=output, in_place=in_place, force=force)
    say(f"Wrote {result.output}: the original, bit for bit ({counted(result.restored, 'byte')} put back)")
    if result.removed:
        say(f"Removed {' and '.join(str(each) for each in result.removed)}")
