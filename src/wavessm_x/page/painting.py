"""What somebody loaded and painted -> a picture, and where it is to be filled."""

from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from wavessm_x.config import WavessmError
from wavessm_x.data.masks import Mask
from wavessm_x.data.reading import Pixels
from wavessm_x.restoring.masking import OPAQUE_FROM

Layer = npt.NDArray[np.uint8]
"""[h, w, 4], RGBA."""


class Painted(TypedDict):
    """What the editor holds, all of one size."""

    background: Layer | None
    layers: list[Layer]
    composite: Any
    """Not used: paint cannot be told from the photo there."""


class NothingToFillError(WavessmError, ValueError):
    """A button was pressed too early; the message says what comes first."""


def picture_and_mask(painted: Painted | None) -> tuple[Pixels, Mask]:
    """Take a painted photo apart.

    Args:
        painted: The photo, and layers of paint over it.

    Returns:
        The photo, [h, w, 3], and the mask: true where there is paint of any colour, however thin, and where the photo
        itself is transparent.

    Raises:
        NothingToFillError: There is no photo, or neither paint nor transparency.
    """
    background, layers = (painted["background"], painted["layers"]) if painted else (None, [])
    photo = loaded(background)
    mask = photo[..., 3] < OPAQUE_FROM
    for layer in layers:
        mask |= layer[..., 3] > 0
    if not mask.any():
        raise NothingToFillError("Paint over what is to be filled first.")
    return photo[..., :3], mask


def loaded(photo: Pixels | None) -> Pixels:
    """Return a photo, if there is one.

    Raises:
        NothingToFillError: There is none.
    """
    if photo is None:
        raise NothingToFillError("Load a photo first.")
    return photo
