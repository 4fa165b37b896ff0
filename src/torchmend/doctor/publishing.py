"""The files of a repair: under construction, then given their names in an order that loses nothing."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from torchmend.doctor.siblings import record_of, sidecar_of
from torchmend.keeping.copying import copy_file
from torchmend.keeping.drafts import draft_beside, draft_folder_beside, put_in_place, sweep, sync_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafts:
    """What a repair writes, before it has its names: the checkpoint (a file or a folder), its record, its sidecar."""

    output: Path
    record: Path
    sidecar: Path


def make_drafts(output: Path, is_folder: bool, drafted: ExitStack) -> Drafts:
    """Make empty drafts beside an output.

    Args:
        output: What they will become.
        is_folder: Whether that is a folder.
        drafted: Removes those that were not published.
    """
    names = (record_of(output), sidecar_of(output))
    for name in (output, *names):
        sweep(name)
    draft = drafted.enter_context((draft_folder_beside if is_folder else draft_beside)(output))
    record, sidecar = (drafted.enter_context(draft_beside(name)) for name in names)
    return Drafts(output=draft, record=record, sidecar=sidecar)


def publish(drafts: Drafts, path: Path, output: Path, *, in_place: bool, drafted: ExitStack) -> Path | None:
    """Give the drafts their names, the repaired checkpoint last.

    Returns:
        Where the source went, if it was replaced.
    """
    placed: list[Path] = []
    backup = None
    try:
        for draft, name in ((drafts.sidecar, sidecar_of(output)), (drafts.record, record_of(output))):
            draft.replace(name)
            placed.append(name)
        if in_place:
            backup = _keep_backup(path, drafted)
            placed.append(backup)
        put_in_place(drafts.output, output)
    except BaseException:
        if drafts.output.exists():  # the output was not replaced, so nothing may describe it
            for each in placed:
                each.unlink(missing_ok=True)
        raise
    return backup


def _keep_backup(path: Path, drafted: ExitStack) -> Path:
    """Give the file a second name that is free: `<name>.bak`, `<name>.bak1`, ..."""
    for backup in _backup_names(path):
        try:
            os.link(path, backup)
        except FileExistsError:
            continue
        except (OSError, AttributeError):  # a system, or a file system, without hard links
            if backup.exists():
                continue
            draft = drafted.enter_context(draft_beside(backup))
            copy_file(path, draft)
            sync_file(draft)
            shutil.copystat(path, draft)
            draft.replace(backup)
        return backup
    raise AssertionError("there is always a next number")


def _backup_names(path: Path) -> Iterator[Path]:
    number = 0
    while True:
        yield path.with_name(f"{path.name}.bak{number or ''}")
        number += 1
