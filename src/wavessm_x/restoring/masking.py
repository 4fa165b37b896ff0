"""Where a picture of a file is to be filled: as a mask says, or where the picture is transparent."""

from pathlib import Path

import torch
from torch.nn import functional

from wavessm_x.data.masks import Mask
from wavessm_x.data.reading import Pixels, read, read_cut_out
from wavessm_x.data.supplied import read_mask
from wavessm_x.restoring.restorer import RestoringError

OPAQUE_FROM = 128
"""The least opacity, of 255, of pixels that stay as they are."""


def read_masked(path: Path, mask: Path | None) -> tuple[Pixels, Mask]:
    """Read a picture and where it is to be filled.

    Args:
        path: The picture.
        mask: Its mask, white where the picture is to be filled; None if the picture is transparent there. With a mask,
            what is transparent counts as white; without, colours are taken as they are stored.

    Returns:
        [h, w, 3], and [h, w]; their sizes may differ.

    Raises:
        UnreadableError: A file is no whole picture.
        RestoringError: There is no mask, and nothing is transparent.
    """
    if mask is not None:
        return read(path), read_mask(mask)
    cut_out = read_cut_out(path)
    if cut_out is None or cut_out[1].min() >= OPAQUE_FROM:
        raise RestoringError(
            f"Nothing says where {path} is to be filled. Give a mask, or a picture that is transparent there."
        )
    return cut_out[0], cut_out[1] < OPAQUE_FROM


def dilated(mask: Mask, pixels: int) -> Mask:
    """Widen what is masked in all directions, diagonals too.

    Args:
        mask: [h, w].
        pixels: By so many; 0 changes nothing.
    """
    wide, size = torch.from_numpy(mask.copy())[None].float(), 2 * pixels + 1
    for kernel, padding in (((size, 1), (pixels, 0)), ((1, size), (0, pixels))):
        wide = functional.max_pool2d(wide, kernel, 1, padding)
    widened: Mask = wide[0].bool().numpy()
    return widened
