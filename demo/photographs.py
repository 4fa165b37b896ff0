"""Real photographs that come with scikit-image and scikit-learn, and what they would look like on old prints."""

from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from wavessm_x.data.masks import draw
from wavessm_x.data.reading import Pixels

PHOTOGRAPHS = {
    "skimage.data": ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"),
    "sklearn.datasets.images": ("china.jpg", "flower.jpg"),
}
"""Packages, and the files in them."""

SIDE, PIECE = 240, 80
"""Photographs are reduced until their shorter side has so many pixels, and cut into pieces so wide and high."""

LARGE = 768
"""Width and height of the large one, in pixels."""


GRAIN, SCRATCH = 25, 230
"""The standard deviation of the grain, and how bright scratches are, of 255."""

SCRATCHED = (0.03, 0.08)
"""The least and the largest share of a picture that scratches cover."""


def write_pairs(folder: Path) -> int:
    """Cut all photographs into square pieces, and age a copy of each; return how many there are.

    Args:
        folder: The clean ones are written into its folder `target`, the aged ones into `inp`, as PNG.
    """
    clean, old = folder / "target", folder / "inp"
    for each in (clean, old):
        each.mkdir(parents=True)
    pieces = [piece for package, names in PHOTOGRAPHS.items() for name in names for piece in _pieces(package, name)]
    for number, piece in enumerate(pieces):
        Image.fromarray(piece).save(clean / f"{number:03d}.png")
        Image.fromarray(aged(piece, number)).save(old / f"{number:03d}.png")
    return len(pieces)


def aged(picture: Pixels, seed: int) -> Pixels:
    """Give a picture [h, w, 3] grain and scratches."""
    rng = np.random.default_rng(seed)
    grainy = picture + rng.normal(0, GRAIN, picture.shape)
    height, width, _ = picture.shape
    grainy[draw(height, width, rng, SCRATCHED, "lines")] = SCRATCH
    return grainy.clip(0, 255).astype(np.uint8)


def large() -> Pixels:
    """Return the middle of the photograph of a rocket before the sky, [768, 768, 3]: large and smooth."""
    picture = np.asarray(_read("skimage.data", "rocket.jpg", LARGE))
    left = (picture.shape[1] - LARGE) // 2
    return picture[:, left : left + LARGE]


def _pieces(package: str, name: str) -> list[Pixels]:
    picture = np.asarray(_read(package, name, SIDE))
    corners = [
        (top, left)
        for top in range(0, picture.shape[0] - PIECE + 1, PIECE)
        for left in range(0, picture.shape[1] - PIECE + 1, PIECE)
    ]
    return [picture[top : top + PIECE, left : left + PIECE] for top, left in corners]


def _read(package: str, name: str, side: int) -> Image.Image:
    """Read a photograph, its shorter side scaled to a length in pixels."""
    with files(package).joinpath(name).open("rb") as file:
        picture = Image.open(file).convert("RGB")
    scale = side / min(picture.size)
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
