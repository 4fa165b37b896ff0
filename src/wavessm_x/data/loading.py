"""A data config -> the sets for training, validation and test, and what was found on the way."""

import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from wavessm_x.config import DataConfig
from wavessm_x.data.damage import Other
from wavessm_x.data.datasets import Source, Spoil, TrainingSet, WholeSet, damaged, mask_drawn, piece_drawn
from wavessm_x.data.folders import DataError, DataWarning, Found, Picture, Skipped, find
from wavessm_x.data.masks import Mask
from wavessm_x.data.reading import Pixels
from wavessm_x.data.splitting import split
from wavessm_x.data.supplied import SuppliedMasks, supplied

NAMED = 5
"""So many files a warning names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found.

    Args:
        train: Pictures to train on.
        validation: Pictures to validate with.
        test: Pictures to evaluate on at the end; 0 without a folder of them.
        tested: Pictures kept out of training and validation since the test has them.
        skipped: Files that are not used, and why.
        alone: Files of pairs without their partners.
        task: What is given and wanted, where masks or damage come from, and which way round masks are.
    """

    train: int
    validation: int
    test: int
    tested: int
    skipped: tuple[Skipped, ...]
    alone: tuple[Path, ...]
    task: str

    def lines(self) -> list[str]:
        """Put it into sentences."""
        counts = f"{self.train} pictures to train on, {self.validation} to validate with, {self.test} to test on."
        tested = f"{self.tested} pictures that the test has too are kept out of training." if self.tested else ""
        return [line for line in (self.task, counts, tested, *self.left_out()) if line]

    def left_out(self) -> list[str]:
        """Name the first files that are skipped or alone, and count them."""
        skipped = [f"{each.path} ({each.reason})" for each in self.skipped]
        alone = [str(path) for path in self.alone]
        return [
            f"{len(each)} files {what}: {', '.join(each[:NAMED])}{', ...' if len(each) > NAMED else ''}."
            for what, each in (("are skipped", skipped), ("have no partner", alone))
            if each
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Datasets:
    """What is trained on, validated with and, if there is a folder for it, tested on; and the report."""

    train: TrainingSet
    validation: WholeSet
    test: WholeSet | None
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """Whole pictures to evaluate on.

    Args:
        pictures: With fixed masks or damage, drawn from the seed and the pictures' names.
        task: What is given and wanted, where masks or damage come from, and which way round masks are.
        left_out: Files that are not used, and why.
    """

    pictures: WholeSet
    task: str
    left_out: tuple[Skipped, ...]


def load_whole(config: DataConfig, *, masked: bool) -> Whole:
    """Find and check pictures to evaluate on, all of them.

    Args:
        config: Where they are; how they are split and cut plays no part.
        masked: As for `load`.

    Raises:
        DataError: There is nothing to evaluate on, or masks are supplied that have no use.
    """
    found = find(config.data_path)
    masks = _masks(config, found, masked=masked)
    spoil = None if found.paired else _spoil(masks, mask_drawn if masked else damaged)
    alone = tuple(Skipped(path=path, reason="it has no partner") for path in found.alone)
    return Whole(
        pictures=WholeSet(Source(found.pictures, seed=config.seed, masked=masked, spoil=spoil)),
        task=_task(masks, paired=found.paired, masked=masked),
        left_out=found.skipped + alone + (masks.skipped if masks else ()),
    )


def load(config: DataConfig, *, masked: bool) -> Datasets:
    """Find, check and split the pictures.

    Args:
        config: Where they are, and how they are cut and split.
        masked: Whether the network is given masks, and what they mark is hidden from it; otherwise it is shown damage
            alone. Pairs are masked where they differ. Photographs get masks, the user's or drawn ones, or damage.

    Returns:
        The sets. Files that are left out are warned of once, as a `DataWarning`.

    Raises:
        DataError: There is nothing to train on, or masks are supplied that have no use.
    """
    found = find(config.data_path)
    tests = find(config.data_path_test) if config.data_path_test else None
    masks = _masks(config, found, masked=masked)
    tested = {each.digest for each in tests.pictures} if tests else set()
    ours = [each for each in found.pictures if each.digest not in tested]
    if not ours:
        raise DataError(f"{config.data_path_test} holds all of {config.data_path}: test on others, or on none.")
    training, validation = split(ours, config.validation, config.seed, config.data_path)

    def source(pictures: tuple[Picture, ...], found: Found, drawn: Spoil = mask_drawn) -> Source:
        spoil = None if found.paired else _spoil(masks, drawn if masked else damaged)
        return Source(pictures, seed=config.seed, masked=masked, spoil=spoil)

    report = Report(
        train=len(training),
        validation=len(validation),
        test=len(tests.pictures) if tests else 0,
        tested=len(found.pictures) - len(ours),
        skipped=found.skipped + (tests.skipped if tests else ()) + (masks.skipped if masks else ()),
        alone=found.alone + (tests.alone if tests else ()),
        task=_task(masks, paired=found.paired, masked=masked),
    )
    if report.left_out():
        warnings.warn(" ".join(report.left_out()), DataWarning, stacklevel=2)
    return Datasets(
        train=TrainingSet(source(training, found, piece_drawn), config.patch_size),
        validation=WholeSet(source(validation, found)),
        test=WholeSet(source(tests.pictures, tests)) if tests else None,
        report=report,
    )


def _masks(config: DataConfig, found: Found, *, masked: bool) -> SuppliedMasks | None:
    if config.masks is None:
        return None
    if not masked:
        raise DataError(
            f"There are masks in {config.masks}, but blind inpainting is given none. Train masked, or without."
        )
    if found.paired:
        raise DataError(
            f"{config.data_path} holds pairs, masked where they differ. Leave out the masks {config.masks}."
        )
    return supplied(config.masks)


def _spoil(masks: SuppliedMasks | None, drawn: Spoil) -> Spoil:
    return drawn if masks is None else partial(_mask_supplied, masks)


def _mask_supplied(
    masks: SuppliedMasks,
    clean: Pixels,
    rng: np.random.Generator,
    other: Other,  # noqa: ARG001 a Spoil
) -> tuple[Pixels, Mask]:
    height, width, _ = clean.shape
    return clean, masks.draw(height, width, rng)


def _task(masks: SuppliedMasks | None, *, paired: bool, masked: bool) -> str:
    if paired:
        return "Pairs, masked where they differ by more than 1/255." if masked else "Pairs, damaged and clean; blind."
    if masks is not None:
        return f"Photographs and {masks.describe()}"
    return "Photographs with drawn masks; 1 (white) is filled." if masked else "Photographs with drawn damage; blind."
