"""Pictures of what the network makes: input, mask, output and target side by side, each with its name."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

TITLES = ("Input", "Mask", "Output", "Target")

CELL = 160
"""Pictures narrower than this are enlarged by whole numbers, so that pixels stay pixels."""

GAP, HEAD = 6, 24
"""Between pictures, and of the line of titles, in pixels."""

LOST = (1.0, 0.0, 1.0)
"""What is not finite is shown in magenta, which no photograph has much of."""


def samples(
    path: Path, images: Sequence[Tensor], masks: Sequence[Tensor], outputs: Sequence[Tensor], targets: Sequence[Tensor]
) -> None:
    """Draw a grid, a row for each sample, as a PNG.

    Args:
        path: The file; its folder is made.
        images: Each [3, H, W] in [0, 1]; a batch [B, 3, H, W] will do. Sizes may differ from row to row.
        masks: Each [1, H, W], 1 where the picture was damaged.
        outputs: Like the images; values beyond [0, 1] are clipped, those that are not finite are magenta.
        targets: Like the images.

    Raises:
        ValueError: There is no sample, or there are not as many of each.
    """
    grid(path, dict(zip(TITLES, (images, masks, outputs, targets), strict=True)))


def grid(path: Path, columns: Mapping[str, Sequence[Tensor]]) -> None:
    """Draw pictures side by side, as a PNG; see `samples`.

    Args:
        path: The file; its folder is made.
        columns: Titles, and below each as many pictures, [1 or 3, H, W].

    Raises:
        ValueError: There is nothing to draw, or there are not as many of each.
    """
    rows = list(zip(*columns.values(), strict=True))
    if not rows:
        raise ValueError("There is no sample to draw.")
    pictures = [[_picture(each) for each in row] for row in rows]
    width = max(picture.width for row in pictures for picture in row)
    heights = [max(picture.height for picture in row) for row in pictures]
    size = (GAP + (width + GAP) * len(columns), HEAD + sum(height + GAP for height in heights))
    sheet = Image.new("RGB", size, "white")
    _write_titles(sheet, columns, width)
    top = HEAD
    for row, height in zip(pictures, heights, strict=True):
        for column, picture in enumerate(row):
            left = GAP + column * (width + GAP)
            sheet.paste(picture, (left + (width - picture.width) // 2, top + (height - picture.height) // 2))
        top += height + GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _write_titles(sheet: Image.Image, titles: Iterable[str], width: int) -> None:
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for column, title in enumerate(titles):
        middle = GAP + column * (width + GAP) + width / 2
        pen.text((middle, HEAD / 2), title, fill="black", anchor="mm", font=font)


def _picture(image: Tensor) -> Image.Image:
    """Return a tensor [1 or 3, H, W] as a picture, enlarged if it is small."""
    image = image.detach().float().cpu().expand(3, -1, -1)
    lost = ~image.isfinite().all(dim=0)
    values = torch.where(lost, torch.tensor(LOST).view(3, 1, 1), image.clamp(0, 1))
    pixels = (values * 255).round().byte().permute(1, 2, 0).contiguous()
    picture = Image.fromarray(pixels.numpy())
    factor = max(1, -(-CELL // picture.width))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
