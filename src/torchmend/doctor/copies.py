"""The copy of a checkpoint that a repair works on: under a name that nobody sees until it is complete."""

import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from torchmend.doctor.expanding import expand
from torchmend.doctor.file_source import FileSource
from torchmend.doctor.splices import Splice
from torchmend.facts.plans import RepairPlan
from torchmend.formats.contents import Contents
from torchmend.formats.mapped import MappedFile
from torchmend.formats.registry import read_contents
from torchmend.keeping.copying import copy_file
from torchmend.keeping.drafts import is_draft

Packed = Mapping[int, Collection[str]]
"""The compressed records to store anew, by the file that holds them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkingCopy:
    """A copy of a checkpoint, complete but for what a repair will change.

    Args:
        path: The file or folder.
        opened: What to open in order to read the checkpoint: the path itself, or the index in the folder.
        files: The copies of the source's files, by the same index.
        names: Their paths inside the folder, with slashes; empty for a checkpoint that is one file.
        places: Where everything stands in the copy.
        rewritten: Where a file's copy differs from it already, for those that had compressed records.
    """

    path: Path
    opened: Path
    files: tuple[Path, ...]
    names: tuple[str, ...]
    places: Contents
    rewritten: Mapping[int, tuple[Splice, ...]] = field(default_factory=dict)


def packed_records(plan: RepairPlan, source: FileSource) -> Packed:
    """Return the compressed records that a plan changes something in."""
    found: dict[int, set[str]] = {}
    for edit in plan.edits:
        stored = source.stored[edit.ref]
        if stored.packed and stored.extent is not None:
            found.setdefault(stored.extent.file, set()).add(stored.packed)
    for scalar in (each.scalar for each in plan.scalars):
        if scalar.packed:
            found.setdefault(scalar.file, set()).add(scalar.packed)
    return found


def changing_files(plan: RepairPlan, source: FileSource) -> list[int]:
    """Return which of the source's files a plan changes."""
    extents = (source.stored[edit.ref].extent for edit in plan.edits)
    return sorted({extent.file for extent in extents if extent} | {each.scalar.file for each in plan.scalars})


@contextmanager
def working_copy(source: FileSource, packed: Packed, draft: Path) -> Iterator[WorkingCopy]:
    """Copy a checkpoint; compressed records that will change are stored, so that their bytes can be patched.

    Args:
        source: The checkpoint.
        packed: The records to store anew.
        draft: An empty file, or for a checkpoint of several files an empty folder.
    """
    contents = source.contents
    names = names_of(contents)
    files = tuple(draft / name if name else draft for name in names)
    rewritten: dict[int, tuple[Splice, ...]] = {}
    for number, (original, copied) in enumerate(zip(contents.files, files, strict=True)):
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.touch()
        if number in packed:
            with copied.open("r+b") as target:
                rewritten[number] = expand(original, packed[number], target)
        else:
            copy_file(original.path, copied)
    if contents.folder is not None:
        copy_companions(contents.folder, draft, names)
    opened = draft if contents.folder is None else draft / source.path.relative_to(contents.folder)
    with ExitStack() as stack:
        places = contents
        if rewritten:
            places = read_contents(opened)
            stack.callback(places.close)
        yield WorkingCopy(path=draft, opened=opened, files=files, names=names, places=places, rewritten=rewritten)


def names_of(contents: Contents) -> tuple[str, ...]:
    """Return each file's path inside the checkpoint's folder, with slashes; empty if there is no folder."""
    folder = contents.folder
    if folder is None:
        return ("",) * len(contents.files)
    return tuple(file.path.relative_to(folder).as_posix() for file in contents.files)


def copy_companions(folder: Path, draft: Path, done: Collection[str]) -> None:
    """Copy what lies beside a checkpoint's files and belongs to it: configuration, tokenizers, code.

    Folders below are left alone, unless the checkpoint itself reaches into them.

    Args:
        folder: The checkpoint's folder.
        draft: Its copy.
        done: Names in the folder that are not to be copied.
    """
    for each in sorted(folder.iterdir()):
        if each.is_file() and each.name not in done and not is_draft(each.name):
            target = draft / each.name
            target.touch()
            copy_file(each, target)


def copy_modes(originals: Sequence[MappedFile], copy: WorkingCopy, records: Iterable[Path]) -> None:
    """Give the copies the originals' permissions, and the records of the repair those of the first."""
    for original, copied in zip(originals, copy.files, strict=True):
        shutil.copymode(original.path, copied)
    for record in records:
        shutil.copymode(originals[0].path, record)
