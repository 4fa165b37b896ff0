"""From tensors to files with names: chosen by layout, written as drafts, read back, and only then renamed."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from torchmend.doctor.targets import check_output, is_same
from torchmend.doctor.writing import safetensors, sharded, torch_zip
from torchmend.doctor.writing.parcels import Advance, Parcel, releasing
from torchmend.facts.errors import RepairError, UserError
from torchmend.formats.mapped import MappedFile
from torchmend.formats.registry import read_file
from torchmend.keeping.drafts import draft_beside, draft_folder_beside, sweep, sync_file, sync_folder

SHARD_BYTES = 5_000_000_000
"""The most bytes of tensors in one file of a sharded checkpoint, unless its user chooses otherwise."""

_TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
_INDEX_SUFFIX = ".index.json"
_Writer = Callable[[Sequence[Parcel], BinaryIO, Advance], None]


class Layout(StrEnum):
    """How tensors are written."""

    TORCH = "torch"
    SAFETENSORS = "safetensors"
    SHARDED = "sharded"

    @property
    def label(self) -> str:
        """What it is called in a report."""
        return {"torch": "torch zip", "sharded": "sharded safetensors"}.get(self.value, self.value)


def layout_for(output: Path) -> Layout:
    """Tell by a file's name how it is to be written.

    Raises:
        UserError: Its name does not tell.
    """
    if output.suffix in _TORCH_SUFFIXES:
        return Layout.TORCH
    if output.suffix == ".safetensors":
        return Layout.SAFETENSORS
    if output.name.endswith(_INDEX_SUFFIX) or output.is_dir() or not output.suffix:
        return Layout.SHARDED
    raise UserError(
        f"The name {output.name} does not tell how to write it. "
        f"Use one of {', '.join(_TORCH_SUFFIXES)} or .safetensors, name a folder, or choose with --to."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where tensors go.

    Args:
        path: A file; for shards, their folder or the index in it.
        layout: How they are written.
        sources: The files that they come from; the first gives the permissions, and none is to be replaced.
        most: Bytes of tensors in one shard.
        force: Whether existing files may be replaced.
    """

    path: Path
    layout: Layout
    sources: tuple[Path, ...]
    most: int
    force: bool

    @property
    def folder(self) -> Path:
        """Where the files are."""
        if self.layout is not Layout.SHARDED:
            return self.path.parent
        return self.path.parent if self.path.name.endswith(_INDEX_SUFFIX) else self.path

    @property
    def index(self) -> Path:
        """What is opened to load the tensors: the file, or the index of the shards."""
        if self.layout is not Layout.SHARDED:
            return self.path
        return self.path if self.path.name.endswith(_INDEX_SUFFIX) else self.path / sharded.INDEX

    def check(self) -> None:
        """Raise UserError if the output cannot be written, as far as can be told beforehand."""
        if self.layout is not Layout.SHARDED:
            self.check_file(self.path)
        elif self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder} is a file, and shards need a folder. Name another.")
        elif self.folder.is_dir():
            self.check_file(self.index)
        elif not self.folder.parent.is_dir():
            raise UserError(f"The folder {self.folder.parent} does not exist. Create it, or write elsewhere.")

    def check_file(self, file: Path) -> None:
        """Raise UserError unless one of the output's files can be written without harm."""
        for source in self.sources:
            if is_same(file, source):
                raise UserError(f"{file} is read for this, so it cannot be replaced. Write elsewhere.")
        check_output(file, self.sources[0], force=self.force)


def unwritable(parcel: Parcel, layout: Layout) -> str:
    """Say why a layout cannot hold a tensor; empty when it can."""
    if layout is not Layout.TORCH and safetensors.lacks(parcel.tensor.dtype):
        return f"safetensors has no element type {parcel.tensor.dtype.name}"
    return ""


def write(parcels: Sequence[Parcel], output: Output, advance: Advance) -> tuple[Path, ...]:
    """Write tensors, read their description back, and give the files their names: all of them, or none.

    Args:
        parcels: At least one; the layout can hold each of them.
        output: Where and how.
        advance: Told of every piece that was written.

    Returns:
        The files, the one to open last.

    Raises:
        UserError: Names collide, or a file exists.
        SourceChangedError: A file that they come from was written to meanwhile.
        RepairError: What was written does not describe the same tensors; it was removed.
        OSError: The disk is full or the folder cannot be written.
    """
    if output.layout is not Layout.TORCH:
        safetensors.check_names(parcels)
    advance = releasing(_sources(parcels), advance)
    if output.layout is Layout.SHARDED:
        return _write_shards(parcels, output, advance)
    kind = torch_zip.write if output.layout is Layout.TORCH else safetensors.write
    sweep(output.path)
    with draft_beside(output.path) as draft:
        _write_file(draft, kind, parcels, advance)
        _check(draft, parcels)
        _check_unchanged(parcels)
        shutil.copymode(output.sources[0], draft)
        draft.replace(output.path)
    sync_folder(output.folder)
    return (output.path,)


def _write_file(path: Path, kind: _Writer, parcels: Sequence[Parcel], advance: Advance) -> None:
    with path.open("wb") as out:
        kind(parcels, out, advance)
        out.flush()
        os.fsync(out.fileno())


def _write_shards(parcels: Sequence[Parcel], output: Output, advance: Advance) -> tuple[Path, ...]:
    """Write shards into a draft folder, which becomes the output's, or whose files move there."""
    shards = sharded.split(parcels, output.most)
    files = (*(output.folder / name for name, _ in shards), output.index)
    is_new = not output.folder.exists()
    for file in () if is_new else files:
        output.check_file(file)
    goal = output.folder if is_new else output.index
    sweep(goal)
    with draft_folder_beside(goal) as draft:
        for name, shard in shards:
            _write_file(draft / name, safetensors.write, shard, advance)
            _check(draft / name, shard)
        (draft / output.index.name).write_bytes(sharded.index(shards))
        sync_file(draft / output.index.name)
        _check_unchanged(parcels)
        for file in files:
            shutil.copymode(output.sources[0], draft / file.name)
        if is_new:
            draft.chmod(output.folder.parent.stat().st_mode & 0o777)
            draft.rename(output.folder)
        else:
            _move(draft, files)
    sync_folder(output.folder.parent if is_new else output.folder)
    return files


def _move(draft: Path, files: Iterable[Path]) -> None:
    """Give files their names, the index last; take back those that were new if one fails."""
    with ExitStack() as undo:
        for file in files:
            if not file.exists():
                undo.callback(file.unlink, missing_ok=True)
            (draft / file.name).replace(file)
        undo.pop_all()


def _sources(parcels: Sequence[Parcel]) -> Sequence[MappedFile]:
    return parcels[0].files  # of one checkpoint, all the same


def _check_unchanged(parcels: Sequence[Parcel]) -> None:
    """Raise SourceChangedError if a file that the tensors come from was written to meanwhile."""
    for file in _sources(parcels):
        file.check_unchanged()


def _check(path: Path, parcels: Sequence[Parcel]) -> None:
    """Read a file that was written, and compare what it describes with what was meant."""
    contents = read_file(path)
    try:
        found = Counter(
            (f"{each.container}.{each.name}" if each.container else each.name, each.dtype.name, each.shape)
            for each in contents.tensors
            if not each.absent and not each.misfit()
        )
    finally:
        contents.close()
    if found != Counter((each.path, each.tensor.dtype.name, each.tensor.shape) for each in parcels):
        raise RepairError(
            f"What was written for {path.name} does not describe the same tensors, so it was removed; the source is "
            "untouched. This is a bug in torchmend: please report it."
        )
