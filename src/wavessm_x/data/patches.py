"""Pictures of any size -> pieces of one size, or whole ones that are large enough for the network."""

import numpy as np
from PIL import Image

from wavessm_x.data.reading import Pixels

SMALLEST = 16
"""The network takes no picture that is lower or narrower."""


def patch(picture: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    """Cut a square out of a picture at random, turned by a multiple of 90 degrees and flipped or not.

    Args:
        picture: [h, w, c]; continued by reflection when it is smaller than the square.
        size: Height and width of the square, in pixels.
        rng: Where all randomness comes from.

    Returns:
        [size, size, c].
    """
    large = grow(picture, size)
    top, left = (rng.integers(have - size + 1) for have in large.shape[:2])
    square = np.rot90(large[top : top + size, left : left + size], int(rng.integers(4)))
    return np.ascontiguousarray(square[:, ::-1] if rng.random() < 0.5 else square)


def grow(picture: Pixels, size: int) -> Pixels:
    """Continue a picture downwards and to the right by reflection, as often as it takes.

    Args:
        picture: [h, w, c], from 1 by 1.
        size: The height and width that are wanted at least, in pixels.
    """
    down, right = (max(size - have, 0) for have in picture.shape[:2])
    return np.pad(picture, ((0, down), (0, right), (0, 0)), mode="reflect")


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
    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR, box=box))


def squeeze(picture: Pixels, height: int, width: int) -> Pixels:
    """Scale a picture to a size, whatever its proportions.

    Args:
        picture: [h, w, 3].
        height: Wanted, in pixels.
        width: Likewise.
    """
    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
