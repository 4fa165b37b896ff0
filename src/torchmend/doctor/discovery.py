"""The checkpoints below a folder: files that are named like some, and folders and indexes that are some."""

import os
from pathlib import Path

from torchmend.facts.errors import UserError
from torchmend.formats.names import SUFFIXES, is_checkpoint_name
from torchmend.formats.registry import claims


def checkpoint_paths(folder: Path) -> list[Path]:
    """Return the checkpoints below a folder, sorted: a path each, also for those of several files.

    Raises:
        UserError: There are none.
    """
    found: list[Path] = []
    for name, below, files in os.walk(folder):
        here = Path(name)
        claimed = [claim for claim, _ in claims(here)]
        found += [claim.path for claim in claimed]
        if any(claim.files is None for claim in claimed):
            below.clear()
            continue
        below[:] = sorted(each for each in below if not each.startswith("."))
        paths = [here / file for file in files if is_checkpoint_name(file)]
        found += [path for path in paths if path.is_file() and not any(claim.covers(path) for claim in claimed)]
    if not found:
        raise UserError(
            f"No checkpoint files in {folder}. Looked for names that end in {', '.join(SUFFIXES)}, "
            "and for sharded and distributed checkpoints."
        )
    return sorted(found)
