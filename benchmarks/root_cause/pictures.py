"""Photographs that come with scikit-image and scikit-learn: crops with holes, and one large bright picture."""

from functools import cache

import numpy as np
import torch
from skimage import data
from skimage.transform import resize
from sklearn.datasets import load_sample_image
from torch import Tensor

SIDE = 32
"""Of crops, in pixels."""

LARGE = 512
"""Of the pictures in the batch that overflows."""

HOLES = 0.5
"""The share of pixels that a network is not given."""

TRAINED_ON = ("astronaut", "coffee", "rocket", "flower.jpg")
HELD_OUT = ("chelsea", "china.jpg")


@cache
def photograph(name: str) -> Tensor:
    """Return a photograph [3, H, W] in [0, 1]."""
    array = load_sample_image(name) if name.endswith(".jpg") else getattr(data, name)()
    return torch.from_numpy(np.array(array)).permute(2, 0, 1).float() / 255


def crops(names: tuple[str, ...], count: int, random: torch.Generator) -> Tensor:
    """Return random crops [count, 3, SIDE, SIDE] of photographs."""
    return torch.stack([_crop(photograph(names[_draw(len(names), random)]), random) for _ in range(count)])


def with_holes(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Return pictures [N, 4, H, W] in which pixels are 0, and which these are as a fourth channel."""
    lost = (torch.rand(len(pictures), 1, *pictures.shape[2:], generator=random) < HOLES).float()
    return torch.cat([pictures * (1 - lost), lost], dim=1)


def square(name: str, side: int) -> Tensor:
    """Return the middle square of a photograph, resized: [3, side, side]."""
    whole = photograph(name)
    half = min(whole.shape[1:]) // 2
    middle = [each // 2 for each in whole.shape[1:]]
    cut = whole[:, middle[0] - half : middle[0] + half, middle[1] - half : middle[1] + half]
    scaled = resize(cut.permute(1, 2, 0).numpy(), (side, side), anti_aliasing=True)
    return torch.from_numpy(scaled).permute(2, 0, 1).float()


def _crop(picture: Tensor, random: torch.Generator) -> Tensor:
    down, across = (_draw(each - SIDE + 1, random) for each in picture.shape[1:])
    return picture[:, down : down + SIDE, across : across + SIDE]


def _draw(below: int, random: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=random))
