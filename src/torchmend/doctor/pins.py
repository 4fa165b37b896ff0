"""The newest healthy checkpoints of a folder, kept where a trainer's own rotation does not reach them."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from torchmend.facts.errors import SourceChangedError
from torchmend.facts.findings import Diagnosis
from torchmend.formats.registry import claims
from torchmend.keeping.drafts import draft_folder_beside, sweep, sync_folder
from torchmend.keeping.families import HIDDEN, numbered
from torchmend.keeping.stamps import (
    ENDING,
    Kind,
    Stamp,
    now,
    recorded,
    stamp_path,
    stamped_path,
    valid_stamp,
    write_stamp,
)
from torchmend.keeping.steps import step_of
from torchmend.keeping.versions import copy_files, remove

Signature = tuple[tuple[str, int, int], ...]
"""Name, size in bytes and time of last change in ns of each file of a checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """The pins of one folder, under `.torchmend/healthy` in it.

    They are copies, which share blocks where the file system can: a trainer that writes to the same name again writes
    into the file itself, and a hard link to it would lose its content with it.

    Args:
        root: The folder that is watched.
        keep: How many to keep, 1 or more.
        link: Whether hard links will do: for trainers that never write to a file again.
    """

    root: Path
    keep: int = 1
    link: bool = False

    @property
    def folder(self) -> Path:
        """Where the pins are."""
        return self.root / HIDDEN / "healthy"

    def pin(self, path: Path, diagnosis: Diagnosis, judged: Signature) -> Path | None:
        """Keep a healthy checkpoint, unless there are enough that are as new.

        Args:
            path: The checkpoint.
            diagnosis: What was found in it.
            judged: What it was when it was diagnosed.

        Returns:
            The pin; None if it is not among the newest.

        Raises:
            SourceChangedError: It is no longer what was diagnosed.
            OSError: The disk is full, or a file cannot be used.
        """
        size, mtime_ns = sum(each[1] for each in judged), max(each[2] for each in judged)
        of = path.relative_to(self.root).as_posix()
        pinned = self.pinned()
        for pin, stamp in pinned:
            if (stamp.of, stamp.size, stamp.mtime_ns) == (of, size, mtime_ns):
                return pin
        if sum(stamp.mtime_ns >= mtime_ns for _, stamp in pinned) >= self.keep:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder / "pin")
        name = next(each for each in numbered(self._name(of, mtime_ns), 0) if not each.exists())
        stamp = Stamp(
            name=name.name,
            of=of,
            kind=Kind.PIN,
            number=1 + max((stamp.number for _, stamp in pinned), default=0),
            saved=now(),
            verdict="healthy",
            step=step_of(diagnosis.scalars),
            size=size,
            mtime_ns=mtime_ns,
        )
        with draft_folder_beside(self.folder / "pin") as scratch:
            draft = self._draft(path, scratch)
            if signature_of(path) != judged:
                raise SourceChangedError(f"{path} changed while it was being copied.")
            write_stamp(name, stamp, scratch / ENDING)
            draft.rename(name)
        self._prune()
        sync_folder(self.folder)
        return name

    def pinned(self) -> list[tuple[Path, Stamp]]:
        """List the pins with their stamps, the newest first."""
        if not self.folder.is_dir():
            return []
        paths = [stamped_path(each) for each in self.folder.iterdir() if each.name.endswith(ENDING)]
        found = [(path, stamp) for path in paths if (stamp := valid_stamp(path)) and stamp.kind is Kind.PIN]
        return sorted(found, key=lambda each: (-each[1].mtime_ns, -each[1].number))

    def _name(self, of: str, mtime_ns: int) -> Path:
        """Return `<name>.<time><suffix>`; the names of folders come before it."""
        flat = of.replace("/", "-")
        suffix = Path(flat).suffix
        when = datetime.fromtimestamp(mtime_ns // 1_000_000_000, UTC).strftime("%Y%m%dT%H%M%SZ")
        return self.folder / f"{flat.removesuffix(suffix)}.{when}{suffix}"

    def _draft(self, path: Path, scratch: Path) -> Path:
        parts = files_of(path)
        draft = scratch / "pin"
        if parts == [path]:
            if self.link:
                try:
                    os.link(path, draft)
                except (OSError, AttributeError):  # a system, or a file system, without hard links
                    pass
                else:
                    return draft
            copy_files({path: draft})
        else:
            base = path if path.is_dir() else path.parent
            copy_files({each: draft / each.relative_to(base) for each in parts})
        return draft

    def _prune(self) -> None:
        for path, _ in self.pinned()[self.keep :]:
            remove(path)
        for each in self.folder.iterdir():
            if each.name.endswith(ENDING) and recorded(each) and not stamped_path(each).exists():
                each.unlink(missing_ok=True)


def move_to_quarantine(path: Path, diagnosis: Diagnosis, judged: Signature) -> Path:
    """Move a corrupted checkpoint of one file to `.torchmend/quarantine` beside it; it will not be removed there.

    Raises:
        OSError: It cannot be moved.
    """
    folder = path.parent / HIDDEN / "quarantine"
    folder.mkdir(parents=True, exist_ok=True)
    names = numbered(folder / path.name, 1)
    name = next(each for each in names if not each.exists() and not stamp_path(each).exists())
    stamp = Stamp(
        name=name.name,
        of="",  # of no family, so that no rotation takes it
        kind=Kind.QUARANTINED,
        number=0,
        saved=now(),
        verdict="corrupted",
        codes=tuple(sorted({each.code.value for each in diagnosis.damaged})),
        step=step_of(diagnosis.scalars),
        size=judged[0][1],
        mtime_ns=judged[0][2],
    )
    with draft_folder_beside(folder / "stamp") as scratch:
        write_stamp(name, stamp, scratch / ENDING)
    path.rename(name)
    sync_folder(folder)
    return name


def files_of(path: Path) -> list[Path]:
    """List the files of a checkpoint: those of a folder, an index and what it names, or one file."""
    if path.is_dir():
        return sorted(each for each in path.rglob("*") if each.is_file())
    if path.suffix == ".json":
        for claim, _ in claims(path.parent):
            if claim.path == path and claim.files is not None:
                return sorted({path, *claim.files})
    return [path]


def signature_of(path: Path) -> Signature | None:
    """Return what changes whenever a checkpoint is written to; None if it is gone."""
    try:
        found = [(str(each), each.stat()) for each in files_of(path)]
    except OSError:
        return None
    return tuple((name, status.st_size, status.st_mtime_ns) for name, status in found) or None
