"""Masks that a user supplies: files in which white marks what is to be filled."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wavessm_x.data.folders import DataError, DataWarning, Skipped, demand_folder, files
from wavessm_x.data.masks import Mask, draw
from wavessm_x.data.patches import fit, squeeze
from wavessm_x.data.reading import Pixels, UnreadableError, decode, quietly, read

WHITE_FROM = 128
"""The least level, of 255, that counts as white."""

BACKGROUND = 0
"""Where a mask is transparent, nothing is filled."""

SUSPICIOUS = 0.6
"""Masks that are whiter on average may have been meant the other way round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuppliedMasks:
    """The masks of a folder.

    Args:
        paths: Their files, sorted; each was read once and has black and white in it.
        skipped: Files that cannot serve.
        coverage: The mean share of white.
    """

    paths: tuple[Path, ...]
    skipped: tuple[Skipped, ...]
    coverage: float

    def draw(self, height: int, width: int, rng: np.random.Generator) -> Mask:
        """Choose a mask and fit it to a picture.

        Args:
            height: Of the picture, in pixels, from 1.
            width: Likewise.
            rng: Where all randomness comes from.

        Returns:
            The mask, scaled to cover the picture and cut at the middle, or squeezed if nothing white were left; flipped
            or not; one pixel is true at least. If its file is unreadable by then, a mask is drawn, with a warning.
        """
        try:
            whole = read(self.paths[rng.integers(len(self.paths))], background=BACKGROUND)
        except UnreadableError as error:
            warnings.warn(f"{error}. A mask is drawn instead.", DataWarning, stacklevel=2)
            return draw(height, width, rng)
        levels = fit(whole, height, width).max(axis=2)
        if levels.max() < WHITE_FROM:
            levels = squeeze(whole, height, width).max(axis=2)
        mask: Mask = levels >= min(WHITE_FROM, levels.max())
        return mask[:, ::-1] if rng.random() < 0.5 else mask

    def describe(self) -> str:
        """Say which way round masks are understood."""
        counts = f"{len(self.paths)} masks: white is filled, {self.coverage:.0%} of them on average."
        return counts + polarity_hint(self.coverage)


def polarity_hint(coverage: float) -> str:
    """Return a sentence, after a space, if so large a share of white may have been meant the other way round."""
    return " If black was meant to be filled, invert the masks." if coverage > SUSPICIOUS else ""


def white(pixels: Pixels) -> Mask:
    """Return where a picture [h, w, 3] of a mask is white."""
    return np.asarray(pixels.max(axis=2) >= WHITE_FROM)


def read_mask(path: Path) -> Mask:
    """Read a mask; white is filled, and what is transparent is not.

    Raises:
        UnreadableError: As `read`.
    """
    return white(read(path, background=BACKGROUND))


def supplied(folder: Path) -> SuppliedMasks:
    """Read the masks of a folder.

    Args:
        folder: Where they lie, at any depth.

    Raises:
        DataError: It is missing, or holds no mask with both black and white in it.
    """
    demand_folder(folder)
    with quietly(), ThreadPoolExecutor(os.cpu_count()) as threads:
        looked = list(threads.map(_look, files(folder)))
    good = {path: seen for path, seen in looked if isinstance(seen, float)}
    skipped = tuple(Skipped(path=path, reason=seen) for path, seen in looked if isinstance(seen, str))
    if not good:
        first = f", such as {skipped[0].path}: {skipped[0].reason}" if skipped else ""
        raise DataError(
            f"None of {len(skipped)} masks in {folder} can be used{first}. Give pictures that are white where"
            " something is to be filled and black elsewhere, or no folder, and masks are drawn."
        )
    return SuppliedMasks(paths=tuple(good), skipped=skipped, coverage=sum(good.values()) / len(good))


def _look(path: Path) -> tuple[Path, float | str]:
    """Give a mask's share of white, or why it cannot serve."""
    try:
        levels = decode(path, BACKGROUND).max(axis=2)
    except UnreadableError as error:
        return path, error.reason
    if levels.min() >= WHITE_FROM:
        return path, "it is all white"
    if levels.max() < WHITE_FROM:
        return path, f"it is all black: the highest level is {levels.max()} of 255, and white begins at {WHITE_FROM}"
    return path, float((levels >= WHITE_FROM).mean())
