"""What an image editor holds -> a picture, and a mask of where somebody painted over it."""

from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from wavessm_x.config import WavessmError
from wavessm_x.data.masks import Mask
from wavessm_x.data.reading import Pixels

Layer = npt.NDArray[np.uint8]
"""[h, w, 4], RGBA."""


class Painted(TypedDict):
    """What the editor holds; it has more, which is of no use here."""

    background: Layer | None
    layers: list[Layer]
    composite: Any


class NothingToDoError(WavessmError, ValueError):
    """Somebody asked to fill, but there is no picture, or nothing to fill in it; the message says what to do first."""


def picture_and_mask(painted: Painted | None) -> tuple[Pixels, Mask]:
    """Take apart what somebody painted.

    Args:
        painted: A photograph, and what was painted over it, all of one size.

    Returns:
        The photograph, [h, w, 3], and the mask, true wherever there is paint of any colour, however thin, and wherever
        the photograph itself is transparent, however slightly.

    Raises:
        NothingToDoError: There is no photograph, or all of it is there.
    """
    if painted is None or painted["background"] is None:
        raise NothingToDoError("Load a photo first.")
    photograph = painted["background"]
    mask = photograph[..., 3] < 255
    for layer in painted["layers"]:
        mask |= layer[..., 3] > 0
    if not mask.any():
        raise NothingToDoError("Paint over what is to be filled first.")
    return photograph[..., :3], mask
