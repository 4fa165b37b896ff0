"""Damage: clean pictures spoilt in the ways that blind inpainting is asked to undo."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wavessm_x.data.masks import COVERAGE, draw
from wavessm_x.data.reading import Pixels

LAYERS_AT_MOST = 3
"""Kinds of damage in one picture."""

OPACITY = (0.75, 1.0)
"""Of another picture that is laid over."""

SMEAR_STEPS = 12
"""Copies of a picture along the way of a smear."""

SMEAR_LENGTH = (0.05, 0.2)
"""Of a smear, relative to the picture's shorter side."""

LARGEST_TURN = 1.5 * math.pi
"""Of a swirl at its centre, in radians; and half of it at least."""

Places = npt.NDArray[np.intp]
"""Rows or columns of n pixels."""

Other = Callable[[int, int], Pixels]
"""Gives another picture of a height and a width."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A region of a picture that is about to be filled, and what it may be filled from.

    Args:
        picture: [h, w, 3].
        rows: Of the region's n pixels; at least one.
        columns: Likewise.
        rng: Where all randomness comes from.
        other: Where another picture comes from.
    """

    picture: Pixels
    rows: Places
    columns: Places
    rng: np.random.Generator
    other: Other


Filling = Callable[[Spot], Pixels]
"""Gives the n pixels of a region, [n, 3]."""


def damage(clean: Pixels, rng: np.random.Generator, other: Other) -> Pixels:
    """Damage a picture: one to three regions of any style of mask, each filled in its own way.

    Args:
        clean: [h, w, 3].
        rng: Where all randomness comes from.
        other: Where another picture to lay over comes from; it is called only when one is.

    Returns:
        [h, w, 3]. The regions cover half of it at most; a smear or swirl of even ground changes nothing there.
    """
    height, width = clean.shape[:2]
    layers = int(rng.integers(1, LAYERS_AT_MOST + 1))
    spoilt = clean.copy()
    for _ in range(layers):
        region = draw(height, width, rng, (COVERAGE[0] / layers, COVERAGE[1] / layers))
        filling = FILLINGS[rng.integers(len(FILLINGS))]
        rows, columns = np.nonzero(region)
        spoilt[rows, columns] = filling(Spot(spoilt, rows, columns, rng, other))
    return spoilt


def _paint(spot: Spot) -> Pixels:
    """One colour; as often as not black, white or grey."""
    colour = spot.rng.integers(0, 256, 3) if spot.rng.random() < 0.5 else np.repeat(spot.rng.choice([0, 128, 255]), 3)
    return np.broadcast_to(colour.astype(np.uint8), (spot.rows.size, 3))


def _grain(spot: Spot) -> Pixels:
    """Noise about one colour."""
    noise = spot.rng.normal(spot.rng.uniform(0, 255, 3), spot.rng.uniform(20, 90), (spot.rows.size, 3))
    return noise.clip(0, 255).astype(np.uint8)


def _smear(spot: Spot) -> Pixels:
    """The mean of copies that are moved step by step in one direction."""
    length = spot.rng.uniform(*SMEAR_LENGTH) * min(spot.picture.shape[:2])
    angle = spot.rng.uniform(0, math.tau)
    total = np.zeros((spot.rows.size, 3), np.float32)
    for step in np.linspace(length / SMEAR_STEPS, length, SMEAR_STEPS):
        down, across = round(step * math.sin(angle)), round(step * math.cos(angle))
        total += _look_up(spot.picture, spot.rows + down, spot.columns + across)
    return (total / SMEAR_STEPS).round().astype(np.uint8)


def _swirl(spot: Spot) -> Pixels:
    """The picture turned about the region's middle, less and less outwards."""
    middle_down, middle_across = spot.rows.mean(), spot.columns.mean()
    down, across = spot.rows - middle_down, spot.columns - middle_across
    near = np.exp(-np.hypot(down, across) / max(down.std(), across.std(), 1.0))
    turn = near * LARGEST_TURN * spot.rng.uniform(0.5, 1.0) * spot.rng.choice([-1, 1])
    sine, cosine = np.sin(turn), np.cos(turn)
    rows = np.rint(down * cosine + across * sine + middle_down).astype(np.intp)
    columns = np.rint(across * cosine - down * sine + middle_across).astype(np.intp)
    return _look_up(spot.picture, rows, columns)


def _overlay(spot: Spot) -> Pixels:
    """Another picture, nearly opaque."""
    opacity = spot.rng.uniform(*OPACITY)
    height, width, _ = spot.picture.shape
    over, under = (each[spot.rows, spot.columns] for each in (spot.other(height, width), spot.picture))
    return np.asarray((opacity * over + (1 - opacity) * under).round(), dtype=np.uint8)


def _look_up(picture: Pixels, rows: Places, columns: Places) -> Pixels:
    """Take pixels [n, 3] from places [n] in a picture, reflected at its edges."""
    taken: Pixels = picture[_reflect(rows, picture.shape[0]), _reflect(columns, picture.shape[1])]
    return taken


def _reflect(places: Places, size: int) -> Places:
    period = max(2 * (size - 1), 1)
    folded = np.abs(places) % period
    return np.minimum(folded, period - folded) if size > 1 else np.zeros_like(folded)


FILLINGS: tuple[Filling, ...] = (_paint, _grain, _smear, _swirl, _overlay)
"""How regions are spoilt."""
