"""Files -> pictures: any of the kinds that photographs come in, as 8-bit RGB, upright."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

Pixels = npt.NDArray[np.uint8]
"""A picture [h, w, 3], or several of one size beside one another in the last axis."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
"""What counts as a picture, in lower case."""

CHECKED_SIDE = 64
"""JPEG files are decoded at an eighth at best when they are only checked; this asks for the smallest."""

ORIENTATION = 0x0112
"""The EXIF tag; from 5 on, width and height change places (EXIF 2.32, section 4.6.4)."""

UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow raises on damaged files."""


class UnreadableError(Exception):
    """A file that is no whole picture.

    Args:
        path: The file.
        reason: Why, in a few words.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path} cannot be read: {self.reason}"


class Size(NamedTuple):
    """Of an upright picture, in pixels."""

    height: int
    width: int


@contextmanager
def quietly() -> Iterator[None]:
    """Keep decoders from warning of odd metadata or large sizes: no reason not to train on a picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read(path: Path, *, background: int = 255) -> Pixels:
    """Read a picture.

    Args:
        path: A file of any of `SUFFIXES`. Of animations and stacks the first picture is taken.
        background: What shows through where a picture is transparent: a grey of 0 to 255.

    Returns:
        [h, w, 3], RGB, turned as its EXIF data say. Grey and palettes become RGB, 16 bits 8; floats count as 0 to 1.

    Raises:
        UnreadableError: The file is missing, damaged, cut off, of another kind, or holds floats that are not finite.
    """
    with quietly():
        return decode(path, background)


def read_cut_out(path: Path) -> tuple[Pixels, npt.NDArray[np.uint8]] | None:
    """Read a picture that may be transparent.

    Args:
        path: As for `read`.

    Returns:
        Its colours [h, w, 3] as they are stored, and how opaque they are [h, w], 0 to 255; None if it has no
        transparency.

    Raises:
        UnreadableError: As `read`.
    """
    try:
        with quietly(), Image.open(path) as opened:
            if not opened.has_transparency_data:
                return None
            layers = np.array(ImageOps.exif_transpose(opened).convert("RGBA"))
    except UNREADABLE as error:
        raise UnreadableError(path, _first_line(error)) from error
    return layers[..., :3], layers[..., 3]


def decode(path: Path, background: int) -> Pixels:
    """Do what `read` does; to be called within `quietly`, which threads cannot do."""
    try:
        with Image.open(path) as opened:
            return np.array(_rgb(ImageOps.exif_transpose(opened), background))
    except UNREADABLE as error:
        raise UnreadableError(path, _first_line(error)) from error


def check(path: Path) -> Size:
    """Decode a picture as cheaply as shows that it is whole; to be called within `quietly`, as `decode`.

    Args:
        path: Its file.

    Returns:
        Its size, upright.

    Raises:
        UnreadableError: As `read`.
    """
    try:
        with Image.open(path) as opened:
            width, height = opened.size
            turned = opened.getexif().get(ORIENTATION, 1) >= 5
            opened.draft("RGB", (CHECKED_SIDE, CHECKED_SIDE))
            opened.load()
            if opened.mode == "F":
                _eight_bits(opened)
    except UNREADABLE as error:
        raise UnreadableError(path, _first_line(error)) from error
    return Size(width, height) if turned else Size(height, width)


def _rgb(image: Image.Image, background: int) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    seen = image.convert("RGBA")
    ground = Image.new("RGBA", seen.size, (background, background, background, 255))
    return Image.alpha_composite(ground, seen).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Bring grey of 16 bits, whole numbers or floats to 8 bits: Pillow itself would only clip them at 255."""
    values: npt.NDArray[Any] = np.asarray(image)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    scale = 255.0 if image.mode == "F" else 255.0 / 65535.0
    return Image.fromarray((values * scale).clip(0, 255).round().astype(np.uint8))


def _first_line(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is gone"
    text = str(error).partition("\n")[0]
    return text or type(error).__name__
