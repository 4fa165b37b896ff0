"""Damage: clean pictures spoilt in the ways that blind inpainting is asked to undo."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wavessm_x.data.masks import COVERAGE, Mask, draw
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

Other = Callable[[int, int], Pixels]
"""Gives another picture of a height and a width."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A region of a picture that is about to be filled, and what it may be filled from."""

    picture: Pixels
    region: Mask
    rng: np.random.Generator
    other: Other


Filling = Callable[[Spot], Pixels]
"""Makes a whole picture [h, w, 3], of which the region will be seen."""


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
        spoilt[region] = filling(Spot(spoilt, region, rng, other))[region]
    return spoilt


def _paint(spot: Spot) -> Pixels:
    """One colour; as often as not black, white or grey."""
    colour = spot.rng.integers(0, 256, 3) if spot.rng.random() < 0.5 else np.repeat(spot.rng.choice([0, 128, 255]), 3)
    return np.broadcast_to(colour.astype(np.uint8), spot.picture.shape)


def _grain(spot: Spot) -> Pixels:
    """Noise about one colour."""
    noise = spot.rng.normal(spot.rng.uniform(0, 255, 3), spot.rng.uniform(20, 90), spot.picture.shape)
    return noise.clip(0, 255).astype(np.uint8)


def _smear(spot: Spot) -> Pixels:
    """The mean of copies that are moved step by step in one direction."""
    height, width = spot.region.shape
    length = spot.rng.uniform(*SMEAR_LENGTH) * min(height, width)
    angle = spot.rng.uniform(0, math.tau)
    down, across = np.arange(height)[:, None], np.arange(width)[None, :]
    total = np.zeros(spot.picture.shape, np.float32)
    for step in np.linspace(length / SMEAR_STEPS, length, SMEAR_STEPS):
        total += _look_up(spot.picture, down + step * math.sin(angle), across + step * math.cos(angle))
    return (total / SMEAR_STEPS).round().astype(np.uint8)


def _swirl(spot: Spot) -> Pixels:
    """The picture turned about the region's middle, less and less outwards."""
    rows, columns = np.nonzero(spot.region)
    middle_down, middle_across = rows.mean(), columns.mean()
    down = np.arange(spot.region.shape[0])[:, None] - middle_down
    across = np.arange(spot.region.shape[1])[None, :] - middle_across
    near = np.exp(-np.hypot(down, across) / max(rows.std(), columns.std(), 1.0))
    turn = near * LARGEST_TURN * spot.rng.uniform(0.5, 1.0) * spot.rng.choice([-1, 1])
    sine, cosine = np.sin(turn), np.cos(turn)
    from_down, from_across = down * cosine + across * sine, across * cosine - down * sine
    return _look_up(spot.picture, from_down + middle_down, from_across + middle_across)


def _overlay(spot: Spot) -> Pixels:
    """Another picture, nearly opaque."""
    opacity = spot.rng.uniform(*OPACITY)
    mixed = opacity * spot.other(*spot.region.shape) + (1 - opacity) * spot.picture
    return np.asarray(mixed.round(), dtype=np.uint8)


def _look_up(picture: Pixels, down: npt.NDArray[np.float64], across: npt.NDArray[np.float64]) -> Pixels:
    """Take pixels from the nearest of the places [h, w] or broadcasting to it, reflected at the edges."""
    rows, columns = _reflect(down, picture.shape[0]), _reflect(across, picture.shape[1])
    taken: Pixels = picture[rows, columns]
    return taken


def _reflect(places: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.intp]:
    period = max(2 * (size - 1), 1)
    folded = np.abs(np.rint(places).astype(np.intp)) % period
    return np.minimum(folded, period - folded) if size > 1 else np.zeros_like(folded)


FILLINGS: tuple[Filling, ...] = (_paint, _grain, _smear, _swirl, _overlay)
"""How regions are spoilt."""
