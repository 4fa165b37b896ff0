"""Damage: clean pictures spoilt in the ways that blind inpainting is asked to undo."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

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

Filling = Callable[[Pixels, Mask, np.random.Generator, Other], Pixels]
"""Makes of a whole picture [h, w, 3] what is seen where the mask is true."""


def damage(clean: Pixels, rng: np.random.Generator, other: Other) -> Pixels:
    """Damage a picture: one to three regions of any style of mask, each filled in its own way.

    Args:
        clean: [h, w, 3].
        rng: Where all randomness comes from.
        other: Where another picture to lay over comes from; it is called only when one is.

    Returns:
        [h, w, 3]. The regions cover 15 to 50 % together at most; within them a smear or swirl of even ground changes nothing.
    """
    height, width = clean.shape[:2]
    layers = int(rng.integers(1, LAYERS_AT_MOST + 1))
    spoilt = clean.copy()
    for _ in range(layers):
        region = draw(height, width, rng, (COVERAGE[0] / layers, COVERAGE[1] / layers))
        filling = FILLINGS[rng.integers(len(FILLINGS))]
        spoilt[region] = filling(spoilt, region, rng, other)[region]
    return spoilt


def _paint(clean: Pixels, region: Mask, rng: np.random.Generator, other: Other) -> Pixels:
    """One colour; as often as not black, white or grey."""
    colour = rng.integers(0, 256, 3) if rng.random() < 0.5 else np.repeat(rng.choice([0, 128, 255]), 3)
    return np.broadcast_to(colour.astype(np.uint8), clean.shape)


def _grain(clean: Pixels, region: Mask, rng: np.random.Generator, other: Other) -> Pixels:
    """Noise about one colour."""
    noise = rng.normal(rng.uniform(0, 255, 3), rng.uniform(20, 90), clean.shape)
    return noise.clip(0, 255).astype(np.uint8)


def _smear(clean: Pixels, region: Mask, rng: np.random.Generator, other: Other) -> Pixels:
    """The mean of copies that are moved step by step in one direction."""
    length = rng.uniform(*SMEAR_LENGTH) * min(clean.shape[:2])
    angle = rng.uniform(0, math.tau)
    steps = np.arange(1, SMEAR_STEPS + 1) * length / SMEAR_STEPS
    down, across = np.arange(clean.shape[0])[:, None], np.arange(clean.shape[1])[None, :]
    moved = [_look_up(clean, down + step * math.sin(angle), across + step * math.cos(angle)) for step in steps]
    return np.mean(moved, axis=0, dtype=np.float32).round().astype(np.uint8)


def _swirl(clean: Pixels, region: Mask, rng: np.random.Generator, other: Other) -> Pixels:
    """The picture turned about the region's middle, less and less outwards."""
    rows, columns = np.nonzero(region)
    down, across = np.arange(clean.shape[0])[:, None] - rows.mean(), np.arange(clean.shape[1])[None, :] - columns.mean()
    radius = max(rows.std(), columns.std(), 1.0)
    turn = rng.choice([-1, 1]) * rng.uniform(0.5, 1.0) * LARGEST_TURN * np.exp(-np.hypot(down, across) / radius)
    sine, cosine = np.sin(turn), np.cos(turn)
    return _look_up(clean, down * cosine + across * sine + rows.mean(), across * cosine - down * sine + columns.mean())


def _overlay(clean: Pixels, region: Mask, rng: np.random.Generator, other: Other) -> Pixels:
    """Another picture, nearly opaque."""
    opacity = rng.uniform(*OPACITY)
    return (opacity * other(*clean.shape[:2]) + (1 - opacity) * clean).round().astype(np.uint8)


def _look_up(picture: Pixels, down: npt.NDArray[np.float64], across: npt.NDArray[np.float64]) -> Pixels:
    """Take pixels from the nearest of the places [h, w] or broadcasting to it, reflected at the edges."""
    rows, columns = _reflect(down, picture.shape[0]), _reflect(across, picture.shape[1])
    return picture[rows, columns]


def _reflect(places: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.intp]:
    period = max(2 * (size - 1), 1)
    folded = np.abs(np.rint(places).astype(np.intp)) % period
    return np.minimum(folded, period - folded) if size > 1 else np.zeros_like(folded)


def fit(picture: Pixels, height: int, width: int) -> Pixels:
    """Scale a picture until it covers a size, and cut what is over at the middle.

    Args:
        picture: [h, w, 3].
        height: Wanted, in pixels.
        width: Likewise.
    """
    scale = max(height / picture.shape[0], width / picture.shape[1])
    tall, wide = height / scale, width / scale
    top, left = (picture.shape[0] - tall) / 2, (picture.shape[1] - wide) / 2
    box = (left, top, left + wide, top + tall)
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR, box=box))


FILLINGS: tuple[Filling, ...] = (_paint, _grain, _smear, _swirl, _overlay)
"""How regions are spoilt."""
