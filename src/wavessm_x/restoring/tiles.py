"""Large pictures as tiles that overlap, and their results blended, so that no border shows.

Along each side the tiles are spread evenly. Where two overlap, one fades out linearly while the other fades in; at
every pixel the weights of all tiles sum to one. Nothing here knows what is done with a tile.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from wavessm_x.config import ConfigError
from wavessm_x.data.masks import Mask
from wavessm_x.data.patches import SMALLEST

SLACK = 1.25
"""A side that is longer than a tile by no more than this factor is not cut."""

SEEN_AT_LEAST = 1 / 8
"""The share of a tile that should not be masked, for the network to go by."""

DOUBLINGS = 2
"""So often tiles are doubled at most, if some see too little."""

Numbers = npt.NDArray[np.float32]
"""[h, w, c]."""

Tile = tuple[slice, slice]
"""Rows and columns of a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How pictures are cut.

    Args:
        tile: Height and width of a tile, in pixels.
        overlap: Of neighbours, at least, in pixels.
    """

    tile: int = 256
    overlap: int = 32

    def __post_init__(self) -> None:
        """Raise ConfigError for values without a meaning."""
        if self.tile < SMALLEST:
            raise ConfigError(f"tile is {self.tile}; it must be {SMALLEST} pixels or more.")
        if not 0 <= self.overlap <= self.tile // 2:
            raise ConfigError(
                f"overlap is {self.overlap}; with tiles of {self.tile} it must be 0 to {self.tile // 2} pixels."
            )

    def cut(self, side: int) -> list[slice]:
        """Cut a side of so many pixels, 1 or more: one piece if it is not much longer than a tile, or equal pieces."""
        if side <= SLACK * self.tile:
            return [slice(0, side)]
        count = ceil((side - self.overlap) / (self.tile - self.overlap))
        starts = [round(number * (side - self.tile) / (count - 1)) for number in range(count)]
        return [slice(start, start + self.tile) for start in starts]

    def showing(self, mask: Mask) -> "Tiling":
        """Return this tiling, or one of tiles doubled until each that is masked anywhere has something else to go by.

        Args:
            mask: [h, w], true where a picture is to be filled.
        """
        tiling = self
        for _ in range(DOUBLINGS):
            if all(mask[tile].mean() <= 1 - SEEN_AT_LEAST for tile in tiling._tiles(*mask.shape)):
                break
            tiling = Tiling(tile=2 * tiling.tile, overlap=2 * tiling.overlap)
        return tiling

    def _tiles(self, height: int, width: int) -> Iterator[Tile]:
        return ((rows, columns) for rows in self.cut(height) for columns in self.cut(width))


def blended(process: Callable[[Tile], Numbers], tiling: Tiling, wanted: Mask) -> Numbers:
    """Process a picture tile by tile.

    Args:
        process: Gives the result [h, w, 3] of a tile.
        tiling: How it is cut.
        wanted: [h, w]; only tiles in which anything is true are processed.

    Returns:
        [h, w, 3]; right where `wanted` is true, and of no meaning elsewhere.
    """
    height, width = wanted.shape
    blend = np.zeros((height, width, 3), np.float32)
    rows, columns = tiling.cut(height), tiling.cut(width)
    for down, tall in zip(rows, weights(rows), strict=True):
        for across, wide in zip(columns, weights(columns), strict=True):
            if wanted[down, across].any():
                blend[down, across] += tall[:, None, None] * wide[:, None] * process((down, across))
    return blend


def weights(pieces: list[slice]) -> list[npt.NDArray[np.float32]]:
    """Return how much each pixel of each piece counts, from 0 to 1: together 1 at every pixel of the side.

    Args:
        pieces: Of a side, in their order; they cover it.
    """
    side = pieces[-1].stop
    total = np.zeros(side)
    rises = []
    for piece in pieces:
        inside = np.arange(piece.start, piece.stop) + 0.5
        fading_in = inside - piece.start if piece.start > 0 else np.full_like(inside, side)
        fading_out = piece.stop - inside if piece.stop < side else np.full_like(inside, side)
        rises.append(np.minimum(fading_in, fading_out))
        total[piece] += rises[-1]
    return [(rise / total[piece]).astype(np.float32) for piece, rise in zip(pieces, rises, strict=True)]
