"""Masks: which part of a picture is to be filled, drawn at random."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Mask = npt.NDArray[np.bool_]
"""[h, w], true where a picture is to be filled."""

COVERAGE = (0.15, 0.5)
"""The least and the largest share of a picture that is masked."""

SHAPES_AT_MOST = 200
"""After so many shapes a mask is drawn as blobs instead, which reach any coverage."""

SHRINKING = 0.7
"""Of shapes, whenever one would have covered too much."""

USUAL_SIDE = 512
"""Pen widths are given for pictures whose shorter side has so many pixels."""

THIN_PEN = (1.0, 5.0)
THICK_PEN = (15.0, 80.0)
"""Widths of lines and strokes in pixels of a picture of the usual side."""

WHOLE_SIDE = 256
"""Of the pictures that pieces of masks are cut from, at least, in pixels."""

PIECE_COVERAGE = (0.05, 0.8)
"""What a piece may cover; what is nearly empty or nearly full teaches little."""

LINES_SHARE = 0.3
"""Of pieces that are cut from lines for certain: near what is known there is most to be learnt."""

PIECES_AT_MOST = 20
"""After so many that cover too much or too little, a mask is drawn for the patch alone."""

LINES_AT_ONCE = 10
"""One thin line covers little."""

COARSEST, FINEST = 3, 9
"""Cells of the noise that blobs come from, along the shorter side."""

Shape = Callable[[ImageDraw.ImageDraw, np.random.Generator, float], None]
"""Draws itself once, at a random place, scaled by a factor of 0 to 1."""


def draw(
    height: int,
    width: int,
    rng: np.random.Generator,
    coverage: tuple[float, float] = COVERAGE,
    style: str | None = None,
) -> Mask:
    """Draw a mask.

    Args:
        height: Of the picture, in pixels, from 1.
        width: Likewise.
        rng: Where all randomness comes from.
        coverage: The least and the largest share that is masked, from 0 to 1; a few pixels may have to miss it.
        style: One of `STYLES`; None for any.

    Returns:
        The mask; at least one pixel is true.
    """
    wanted = rng.uniform(*coverage)
    shapes = STYLES[style or str(rng.choice(list(STYLES)))]
    mask = _shapes(height, width, rng, shapes, (wanted, coverage[1])) if shapes else None
    return blobs(height, width, rng, wanted) if mask is None else mask


def draw_piece(height: int, width: int, rng: np.random.Generator) -> Mask:
    """Cut a mask for a patch out of one for a whole picture, so that holes are as large as they will be there.

    Args:
        height: Of the patch, in pixels, from 1; from `WHOLE_SIDE` on there is nothing to cut.
        width: Likewise.
        rng: Where all randomness comes from.

    Returns:
        The mask; at least one pixel is true, and, unless the patch is a single pixel, one is not.
    """
    tall, wide = max(height, WHOLE_SIDE), max(width, WHOLE_SIDE)
    for _ in range(PIECES_AT_MOST):
        whole = draw(tall, wide, rng, style="lines" if rng.random() < LINES_SHARE else None)
        top, left = int(rng.integers(tall - height + 1)), int(rng.integers(wide - width + 1))
        piece = whole[top : top + height, left : left + width]
        if PIECE_COVERAGE[0] <= piece.mean() <= PIECE_COVERAGE[1]:
            return piece
    return draw(height, width, rng)


def blobs(height: int, width: int, rng: np.random.Generator, coverage: float) -> Mask:
    """Draw organic blobs: smooth noise above the quantile that gives the coverage, and at least one pixel.

    Args:
        height: Of the picture, in pixels, from 1.
        width: Likewise.
        rng: Where all randomness comes from.
        coverage: The share of pixels that is true, from 0 to 1.
    """
    cells = rng.uniform(COARSEST, FINEST) / min(height, width)
    coarse = rng.standard_normal((math.ceil(height * cells) + 1, math.ceil(width * cells) + 1), dtype=np.float32)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    count = min(max(round(coverage * smooth.size), 1), smooth.size)
    mask = np.zeros(smooth.size, dtype=np.bool_)
    mask[np.argpartition(smooth.ravel(), smooth.size - count)[smooth.size - count :]] = True
    return mask.reshape(height, width)


def _shapes(
    height: int, width: int, rng: np.random.Generator, shapes: tuple[Shape, ...], coverage: tuple[float, float]
) -> Mask | None:
    """Add shapes until the least coverage is reached, less any that leads beyond the largest. None if that fails."""
    canvas = Image.new("L", (width, height))
    scale = 1.0
    for _ in range(SHAPES_AT_MOST):
        longer = canvas.copy()
        shapes[rng.integers(len(shapes))](ImageDraw.Draw(longer), rng, scale)
        covered = longer.histogram()[255] / (width * height)
        if covered > coverage[1]:
            scale *= SHRINKING
            continue
        canvas = longer
        if covered >= coverage[0]:
            return np.asarray(canvas) > 0
    return None


def _lines(pen: ImageDraw.ImageDraw, rng: np.random.Generator, scale: float) -> None:
    bend = rng.uniform(0.0, 0.3)
    for _ in range(math.ceil(LINES_AT_ONCE * scale)):
        _wander(pen, rng, THIN_PEN, 1.0, bend)


def _stroke(pen: ImageDraw.ImageDraw, rng: np.random.Generator, scale: float) -> None:
    _wander(pen, rng, THICK_PEN, scale, rng.uniform(0.2, 1.0))


def _wander(
    pen: ImageDraw.ImageDraw, rng: np.random.Generator, widths: tuple[float, float], scale: float, bend: float
) -> None:
    """Draw a line of a few steps, each turned a little from the last, with round joints and ends."""
    side = min(pen.im.size)
    thickness = max(1, round(rng.uniform(*widths) * scale * max(side, 64) / USUAL_SIDE))
    point, heading = rng.uniform((0, 0), pen.im.size), rng.uniform(0, math.tau)
    points = [tuple(point)]
    for _ in range(rng.integers(2, 9)):
        heading += rng.normal(0, bend)
        point = point + rng.uniform(0.05, 0.3) * side * scale * np.array([math.cos(heading), math.sin(heading)])
        points.append(tuple(point))
    pen.line(points, fill=255, width=thickness, joint="curve")
    if thickness > 2:
        for end in (points[0], points[-1]):
            pen.circle(end, thickness / 2, fill=255)


def _box(pen: ImageDraw.ImageDraw, rng: np.random.Generator, scale: float) -> None:
    pen.rectangle(_bounds(pen, rng, scale), fill=255)


def _ellipse(pen: ImageDraw.ImageDraw, rng: np.random.Generator, scale: float) -> None:
    pen.ellipse(_bounds(pen, rng, scale), fill=255)


def _polygon(pen: ImageDraw.ImageDraw, rng: np.random.Generator, scale: float) -> None:
    """Draw a star-shaped polygon: corners in the order of their angles, each at its own distance."""
    left, top, right, bottom = _bounds(pen, rng, scale)
    angles = np.sort(rng.uniform(0, math.tau, rng.integers(3, 10)))
    reach = rng.uniform(0.5, 1.0, angles.size)
    across = (left + right) / 2 + reach * np.cos(angles) * (right - left) / 2
    down = (top + bottom) / 2 + reach * np.sin(angles) * (bottom - top) / 2
    pen.polygon(list(zip(across.tolist(), down.tolist(), strict=True)), fill=255)


def _bounds(pen: ImageDraw.ImageDraw, rng: np.random.Generator, scale: float) -> tuple[float, float, float, float]:
    """Choose left, top, right and bottom of a shape, wholly or partly in the picture."""
    width, height = rng.uniform(0.1, 0.6, 2) * scale * np.array(pen.im.size)
    across, down = rng.uniform((0, 0), pen.im.size)
    return across - width / 2, down - height / 2, across + width / 2, down + height / 2


SHAPES: tuple[Shape, ...] = (_lines, _stroke, _box, _ellipse, _polygon)
"""What masks are made of, besides blobs."""

STYLES: dict[str, tuple[Shape, ...]] = {
    "lines": (_lines,),
    "strokes": (_stroke,),
    "boxes": (_box,),
    "ellipses": (_ellipse,),
    "polygons": (_polygon,),
    "mixed": SHAPES,
    "blobs": (),
}
"""Names of ways to mask, and the shapes of each; blobs are none."""
