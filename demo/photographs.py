"""Real photographs that come with scikit-image and scikit-learn: pieces to train on, and one at its full size."""

from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PHOTOGRAPHS = {
    "skimage.data": ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"),
    "sklearn.datasets.images": ("china.jpg", "flower.jpg"),
}
"""Packages, and the files in them."""

SIDE, PIECE = 240, 80
"""Photographs are reduced until their shorter side has so many pixels, and cut into pieces so wide and high."""

LARGE = 512
"""Width and height of the one that is kept large, in pixels."""


def write_pieces(folder: Path) -> int:
    """Cut all photographs into square pieces; return how many there are.

    Args:
        folder: Where they are written, as PNG; it is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for package, names in PHOTOGRAPHS.items():
        for name in names:
            reduced = _read(package, name, SIDE)
            for top in range(0, reduced.height - PIECE + 1, PIECE):
                for left in range(0, reduced.width - PIECE + 1, PIECE):
                    reduced.crop((left, top, left + PIECE, top + PIECE)).save(folder / f"{count:03d}.png")
                    count += 1
    return count


def large() -> NDArray[np.float32]:
    """Return the middle of the photograph of a cup of coffee, [3, 512, 512], in [0, 1]."""
    picture = _read("skimage.data", "coffee.png", LARGE)
    left = (picture.width - LARGE) // 2
    pixels = np.asarray(picture.crop((left, 0, left + LARGE, LARGE)).convert("RGB"))
    return pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)


def _read(package: str, name: str, side: int) -> Image.Image:
    """Read a photograph, its shorter side scaled to a length in pixels."""
    with files(package).joinpath(name).open("rb") as file:
        picture = Image.open(file).convert("RGB")
    scale = side / min(picture.size)
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
