"""Pictures made by rule, for demonstrations and tests: sky, ground, shapes and textures, and nothing downloaded."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Canvas = npt.NDArray[np.float64]
"""[h, w, 3], in [0, 1]."""

SHAPES = (4, 12)
"""The fewest and the most shapes in a picture."""

OCTAVES = 5
"""Of fractal noise; each has twice the frequency and half the height of the one before (Perlin 1985)."""


def photographs(folder: Path, count: int, size: int, seed: int = 0) -> list[Path]:
    """Write pictures into a folder, which is made if need be.

    Args:
        folder: Where `0000.png` and so on are written.
        count: How many, from 1.
        size: Width and height in pixels, from 1.
        seed: A picture depends on it and on its own number alone.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(photograph(size, np.random.default_rng((seed, number)))).save(path)
    return paths


def photograph(size: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Make one picture.

    Args:
        size: Width and height in pixels, from 1.
        rng: Where all randomness comes from.

    Returns:
        [size, size, 3], RGB: a gradient with clouds, and shapes with stripes, checks or grain, shaded on one side.
    """
    down, across = np.mgrid[0:size, 0:size] / size
    clouds = _fractal(size, rng)[..., None]
    along = (down * rng.uniform(0.3, 1.0) + across * rng.uniform(-0.5, 0.5))[..., None]
    canvas: Canvas = _blend(rng.random(3), rng.random(3), along) * (0.7 + 0.6 * clouds)
    for _ in range(rng.integers(SHAPES[0], SHAPES[1] + 1)):
        canvas = _add_shape(canvas, down, across, rng)
    return np.asarray((canvas.clip(0, 1) * 255).round(), dtype=np.uint8)


def _add_shape(canvas: Canvas, down: Canvas, across: Canvas, rng: np.random.Generator) -> Canvas:
    """Lay a textured superellipse (a box, a disc or between) over a canvas, with a soft edge of about a pixel."""
    size = canvas.shape[0]
    angle, power = rng.uniform(0, math.tau), rng.choice([1.0, 2.0, 8.0])
    y, x = down - rng.random(), across - rng.random()
    along, beside = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    half = rng.uniform(0.05, 0.3, 2)
    reach = ((np.abs(along) / half[0]) ** power + (np.abs(beside) / half[1]) ** power) ** (1 / power)
    cover = ((1 - reach) * half.min() * size + 0.5).clip(0, 1)[..., None]
    shade = 1 + 0.5 * (along / half[0]).clip(-1, 1)[..., None]
    colours = _blend(rng.random(3), rng.random(3), _texture(along, beside, rng)[..., None])
    return _blend(canvas, colours * shade, cover)


def _texture(along: Canvas, beside: Canvas, rng: np.random.Generator) -> Canvas:
    """Give values in [0, 1]: plain, stripes, checks or grain."""
    waves = math.tau * rng.uniform(4, 25)
    kind = rng.integers(4)
    if kind == 0:
        return np.zeros_like(along)
    if kind == 1:
        return 0.5 + 0.5 * np.sin(waves * along)
    if kind == 2:
        return (np.sin(waves * along) * np.sin(waves * beside) > 0).astype(np.float64)
    return _fractal(along.shape[0], rng)


def _fractal(size: int, rng: np.random.Generator) -> Canvas:
    """Add up smooth noise of several frequencies: [size, size], in [0, 1]."""
    total = np.zeros((size, size))
    for octave in range(OCTAVES):
        coarse = rng.random((2**octave + 2, 2**octave + 2), dtype=np.float32)
        total += np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)) / 2 ** (octave + 1)
    return total.clip(0, 1)


def _blend(low: Canvas, high: Canvas, share: Canvas) -> Canvas:
    return low + (high - low) * share
