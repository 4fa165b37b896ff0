"""`torchmend pick`."""

from pathlib import Path
from typing import Annotated

import typer

from torchmend.cli.common import Exit, complain, say
from torchmend.doctor.siblings import is_repaired, pick_newest_healthy, record_of


def pick(folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a run.")]) -> None:
    """Print the newest healthy checkpoint of a folder.

    Made for scripts: `train.py --resume $(torchmend pick runs/7)`. Why newer ones were passed over goes to
    standard error. Exits 1 when none is healthy.
    """
    picked = pick_newest_healthy(folder)
    for path, reason in picked.passed_over:
        complain(f"passed over {path}: {reason}")
    if picked.chosen is None:
        complain(f"torchmend: no healthy checkpoint in {folder}.")
        raise typer.Exit(Exit.FINDINGS)
    if is_repaired(picked.chosen):
        complain(f"note: {picked.chosen} is a repaired copy; {record_of(picked.chosen)} says what was done to it.")
    say(str(picked.chosen))
