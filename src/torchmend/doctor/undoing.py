"""Undo a repair: put the old bytes back, and prove by SHA-256 that the result is the original."""

import os
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from torchmend.doctor.copies import copy_companions
from torchmend.doctor.hashing import sha256_of
from torchmend.doctor.recording import FileUndo, Undo, read_undo
from torchmend.doctor.siblings import record_of
from torchmend.doctor.splices import Splice
from torchmend.doctor.targets import check_output, is_same, original_name
from torchmend.facts.errors import RepairError, UserError
from torchmend.keeping.drafts import draft_beside, draft_folder_beside, put_in_place, sweep, sync_folder

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfixResult:
    """What undoing a repair came to.

    Args:
        path: The repaired file or folder.
        output: What now holds the original bytes.
        sha256: The SHA-256 of the original; of a folder, that of the first file that had changed.
        restored: How many bytes were put back.
        removed: The record and the sidecar, where they no longer describe a file.
    """

    path: Path
    output: Path
    sha256: str
    restored: int
    removed: tuple[Path, ...] = ()


def unfix_file(
    path: str | Path, *, output: str | Path | None = None, in_place: bool = False, force: bool = False
) -> UnfixResult:
    """Write the original of a repaired file, bit for bit, from the record beside it.

    Args:
        path: The repaired file; only read, unless `in_place`.
        output: Where the original goes; `<name>_ORIGINAL<suffix>`, without `_FIXED`, beside the file when None.
        in_place: Put the original in the repaired file's place, and remove the record, which is then used up.
        force: Replace an existing output.

    Raises:
        UserError: There is no usable record, it is not of this file as it is now, its sidecar is missing or
            damaged, or the output exists.
        RepairError: The result is not the original after all; it was removed.
        OSError: The disk is full or the folder cannot be written.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist. Name what torchmend fix wrote.")
    record = record_of(path)
    undo = read_undo(record)
    if in_place and path.is_dir():
        raise UserError(f"{path} is a folder, which was not repaired in place. Leave --in-place out.")
    sidecar = record.with_name(undo.sidecar)
    target = path if in_place else Path(output) if output is not None else original_name(path)
    if not in_place:
        check_output(target, path, force=force)
        if any(is_same(target, each) for each in (record, sidecar)):
            raise UserError(f"{target} is needed to undo the repair. Write elsewhere with -o.")
    done = UnfixResult(path=path, output=target, sha256=undo.files[0].source.sha256, restored=undo.restored)
    if _is_undone(path, undo, in_place=in_place):
        return _use_up(done, record, sidecar)
    _check_sidecar(sidecar, undo)
    _write_original(path, target, sidecar, undo)
    return _use_up(done, record, sidecar) if in_place else done


def _is_undone(path: Path, undo: Undo, *, in_place: bool) -> bool:
    """Return whether an earlier run put the original in place and was stopped before it removed the record.

    Raises:
        UserError: The file is neither the result nor, in place, the original.
    """
    for file in undo.files:
        repaired = _inside(path, file)
        digest = sha256_of(repaired) if repaired.is_file() else ""
        if digest == file.result.sha256:
            continue
        if digest == file.source.sha256:
            if in_place:
                return True
            raise UserError(f"{repaired} holds the original bytes already: there is nothing to undo.")
        raise UserError(
            f"{repaired} is not the file that the record {record_of(path).name} describes: it was changed or replaced "
            "after the repair, so putting old bytes back would spoil it. Nothing was written."
        )
    return False


def _inside(path: Path, file: FileUndo) -> Path:
    return path / file.name if file.name else path


def _check_sidecar(sidecar: Path, undo: Undo) -> None:
    if not sidecar.is_file():
        raise UserError(f"{sidecar} is missing. It holds the bytes that the repair replaced; put it beside the record.")
    size = sidecar.stat().st_size
    if size != undo.restored:
        raise UserError(f"{sidecar} is damaged: it has {size:,} bytes, and the record says {undo.restored:,}.")
    if sha256_of(sidecar) != undo.sidecar_sha256:
        raise UserError(f"{sidecar} is damaged: its SHA-256 is not the one in the record. Restore it from a backup.")


def _write_original(path: Path, target: Path, sidecar: Path, undo: Undo) -> None:
    """Make the original beside the target, check it, and give it the target's name."""
    sweep(target)
    with ExitStack() as drafted, sidecar.open("rb") as old:
        draft = drafted.enter_context((draft_folder_beside if path.is_dir() else draft_beside)(target))
        for file in undo.files:
            repaired, restored = _inside(path, file), _inside(draft, file)
            restored.parent.mkdir(parents=True, exist_ok=True)
            with repaired.open("rb") as new, restored.open("wb") as made:
                _put_back(new, old, made, file.splices)
                made.flush()
                os.fsync(made.fileno())
            if sha256_of(restored) != file.source.sha256:
                raise RepairError(
                    f"{repaired} with the old bytes put back is not the original, so it was removed; {path.name} is "
                    "untouched. A file changed meanwhile, or the record was altered."
                )
            shutil.copymode(repaired, restored)
        if path.is_dir():
            copy_companions(path, draft, [file.name for file in undo.files])
        put_in_place(draft, target)
    sync_folder(target.parent)


def _put_back(new: BinaryIO, old: BinaryIO, made: BinaryIO, splices: Iterable[Splice]) -> None:
    """Write the repaired file's bytes, and in place of each splice the old ones, which follow one another."""
    for splice in splices:
        _copy(new, made, splice.offset - new.tell())
        _copy(old, made, splice.old)
        new.seek(splice.end)
    shutil.copyfileobj(new, made, _PIECE)


def _copy(source: BinaryIO, target: BinaryIO, length: int) -> None:
    target.writelines(source.read(min(_PIECE, length - start)) for start in range(0, length, _PIECE))


def _use_up(done: UnfixResult, record: Path, sidecar: Path) -> UnfixResult:
    """Remove the record and the sidecar of a file that is the original again."""
    removed = tuple(each for each in (record, sidecar) if each.exists())
    for each in removed:
        each.unlink()
    return UnfixResult(path=done.path, output=done.output, sha256=done.sha256, restored=done.restored, removed=removed)
