"""Real photographs that come with scikit-image and scikit-learn: pieces to train on, and one at its full size."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images

SIDE, PIECE = 240, 80
"""Photographs are reduced until their shorter side has so many pixels, and cut into pieces so wide and high."""

LARGE = 512
"""Width and height of the one that is not reduced, in pixels."""


def write_pieces(folder: Path) -> int:
    """Cut all photographs into square pieces; return how many there are.

    Args:
        folder: Where they are written, as PNG; it is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for photograph in _photographs():
        reduced = _reduced(photograph, SIDE)
        for top in range(0, reduced.height - PIECE + 1, PIECE):
            for left in range(0, reduced.width - PIECE + 1, PIECE):
                reduced.crop((left, top, left + PIECE, top + PIECE)).save(folder / f"{count:03d}.png")
                count += 1
    return count


def large() -> NDArray[np.float32]:
    """Return the middle of the photograph of a cup of coffee, [3, 512, 512], in [0, 1]."""
    reduced = _reduced(data.coffee(), LARGE)
    left = (reduced.width - LARGE) // 2
    pixels = np.asarray(reduced.crop((left, 0, left + LARGE, LARGE)), dtype=np.float32)
    return pixels.transpose(2, 0, 1) / 255


def _photographs() -> list[NDArray[np.uint8]]:
    left, *_ = data.stereo_motorcycle()
    return [
        data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), left, *load_sample_images().images
    ]  # fmt: skip


def _reduced(photograph: NDArray[np.uint8], side: int) -> Image.Image:
    """Scale a photograph [h, w, 3] until its shorter side has a length in pixels."""
    picture = Image.fromarray(photograph)
    scale = side / min(picture.size)
    size = round(picture.width * scale), round(picture.height * scale)
    return picture.resize(size, Image.Resampling.LANCZOS)
