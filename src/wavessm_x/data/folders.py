"""Folders -> the pictures and pairs in them, what was passed over, and why."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from wavessm_x.config import WavessmError
from wavessm_x.data.reading import SUFFIXES, Size, UnreadableError, check, quietly

INPUTS = ("inp", "input")
"""Where damaged pictures lie, in a folder of pairs."""

TARGETS = ("target", "gt", "ground_truth")
"""Where the clean ones lie."""


class DataError(WavessmError, ValueError):
    """Pictures that cannot be trained on; the message says which, why, and what to do."""


class DataWarning(UserWarning):
    """Something is left out, and the work goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A file that is not used.

    Args:
        path: The file.
        reason: Why.
    """

    path: Path
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A photograph, or a pair of a damaged and a clean picture.

    Args:
        name: Its path within its folder; of a pair without the suffix.
        target: The file of the clean picture.
        image: The file of the damaged one; None for a photograph.
        digest: SHA-256 of the clean file's bytes.
    """

    name: str
    target: Path
    image: Path | None = None
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a folder holds.

    Args:
        pictures: Sorted by name; all pairs, or all photographs.
        skipped: Pictures that cannot be read, whose sizes differ, or whose names clash.
        alone: Files of pairs without their partners.
        paired: Whether it is a folder of pairs.
    """

    pictures: tuple[Picture, ...]
    skipped: tuple[Skipped, ...]
    alone: tuple[Path, ...]
    paired: bool


@dataclass(frozen=True, slots=True)
class _Checked:
    path: Path
    size: Size
    digest: str


def find(folder: Path) -> Found:
    """Find what can be trained on in a folder.

    Args:
        folder: With pairs in two of its folders, or with photographs at any depth.

    Returns:
        What it holds; every picture has been decoded once.

    Raises:
        DataError: The folder is missing, has one side of pairs only, or holds nothing that can be used.
    """
    demand_folder(folder)
    inputs, targets = _one_of(folder, INPUTS), _one_of(folder, TARGETS)
    if inputs is None and targets is None:
        found = _photographs(folder)
    elif inputs is None or targets is None:
        missing = INPUTS if inputs is None else TARGETS
        there = targets if inputs is None else inputs
        raise DataError(f"{there} has no partner: put the other half into a folder {' or '.join(missing)} beside it.")
    else:
        found = _pairs(inputs, targets)
    if not found.pictures:
        raise DataError(_nothing(folder, found))
    return found


def demand_folder(folder: Path) -> None:
    """Raise DataError unless there is such a folder."""
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"The folder of pictures {folder} {what}, seen from {Path.cwd()}. Give one that does.")


def files(folder: Path) -> list[Path]:
    """List the pictures of a folder by their suffixes, at any depth, hidden ones left out, sorted."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def _check_all(paths: Iterable[Path]) -> list[_Checked | Skipped]:
    """Decode and digest files, in threads: decoders leave the interpreter free."""
    with quietly(), ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(_check, paths))


def _check(path: Path) -> _Checked | Skipped:
    try:
        size = check(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except UnreadableError as error:
        return Skipped(path=path, reason=error.reason)
    return _Checked(path, size, digest)


def _one_of(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _photographs(folder: Path) -> Found:
    checked = _check_all(files(folder))
    pictures = (
        Picture(name=each.path.relative_to(folder).as_posix(), target=each.path, digest=each.digest)
        for each in checked
        if isinstance(each, _Checked)
    )
    skipped = tuple(each for each in checked if isinstance(each, Skipped))
    return Found(pictures=tuple(pictures), skipped=skipped, alone=(), paired=False)


def _pairs(inputs: Path, targets: Path) -> Found:
    skipped: list[Skipped] = []
    images, cleans = _by_stem(inputs, skipped), _by_stem(targets, skipped)
    shared = sorted(images.keys() & cleans.keys())
    checked = _check_all(path for name in shared for path in (images[name], cleans[name]))
    pictures: list[Picture] = []
    for name, image, clean in zip(shared, checked[::2], checked[1::2], strict=True):
        if isinstance(image, Skipped) or isinstance(clean, Skipped):
            skipped += [each for each in (image, clean) if isinstance(each, Skipped)]
        elif image.size != clean.size:
            sizes = f"{image.size.width}x{image.size.height}, its target {clean.size.width}x{clean.size.height}"
            skipped.append(Skipped(path=image.path, reason=f"it has {sizes} pixels"))
        else:
            pictures.append(Picture(name=name, image=image.path, target=clean.path, digest=clean.digest))
    alone = [each[name] for each in (images, cleans) for name in sorted(each.keys() - set(shared))]
    return Found(pictures=tuple(pictures), skipped=tuple(skipped), alone=tuple(alone), paired=True)


def _by_stem(folder: Path, skipped: list[Skipped]) -> dict[str, Path]:
    """Name files by their paths without suffixes; of several with one name the first counts, the others are skipped."""
    named: dict[str, Path] = {}
    for path in files(folder):
        first = named.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
        if first is not path:
            skipped.append(Skipped(path=path, reason=f"its name is that of {first.name} but for the suffix"))
    return named


def _nothing(folder: Path, found: Found) -> str:
    """Say why a folder is of no use."""
    kinds = ", ".join(sorted(SUFFIXES))
    if found.skipped:
        first = found.skipped[0]
        return f"None of the pictures in {folder} can be used, such as {first.path}: {first.reason}. Give whole ones."
    if found.alone:
        return f"No two names in {folder} agree, {found.alone[0]} has no partner. A pair has one name in both folders."
    return f"There are no pictures in {folder}. Put files of {kinds} there, or pairs in {INPUTS[1]} and {TARGETS[0]}."
