from pathlib import Path

import numpy as np
import pytest
import torch

from wavessm_x.data.damage import Other
from wavessm_x.data.datasets import Source, differing
from wavessm_x.data.folders import find
from wavessm_x.data.masks import Mask
from wavessm_x.data.reading import Pixels
from wavessm_x.data.synthetic import photographs


def lay_over(clean: Pixels, rng: np.random.Generator, other: Other) -> tuple[Pixels, Mask]:
    """Replace a picture by another one of the set."""
    return other(16, 16), np.ones((16, 16), np.bool_)


def test_the_other_picture_that_is_laid_over_is_of_the_same_set_and_never_itself(tmp_path: Path) -> None:
    photographs(tmp_path, 4, 16)
    pictures = find(tmp_path).pictures
    source = Source(pictures[:3], seed=1, masked=False, spoil=lay_over)
    pixels = [source.read(index)[1] for index in range(3)]
    for index in range(3):
        rngs = (np.random.default_rng(seed) for seed in range(20))
        images = [source.sample(pixels[index], index, "a", rng)["image"] for rng in rngs]
        seen = {tuple(torch.equal(image, _tensor(each)) for each in pixels) for image in images}
        assert seen == {tuple(place == other for place in range(3)) for other in range(3) if other != index}


def test_a_single_picture_is_laid_over_itself_upside_down(tmp_path: Path) -> None:
    photographs(tmp_path, 1, 16)
    source = Source(find(tmp_path).pictures, seed=1, masked=False, spoil=lay_over)
    _, pixels = source.read(0)
    sample = source.sample(pixels, 0, "a", np.random.default_rng(0))
    assert torch.equal(sample["image"], _tensor(pixels).flip(1))


@pytest.mark.parametrize(
    ("levels", "expected"), [((9, 9, 9), False), ((9, 10, 8), False), ((9, 11, 9), True), ((7, 9, 9), True)]
)
def test_pictures_differ_where_any_channel_does_by_more_than_one_level(
    levels: tuple[int, int, int], expected: bool
) -> None:
    image, target = np.array([[levels]], np.uint8), np.full((1, 1, 3), 9, np.uint8)
    assert differing(image, target).tolist() == [[expected]]


def test_black_and_white_differ() -> None:
    black, white = np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8)
    assert differing(black, white).all()
    assert differing(white, black).all()


def _tensor(pixels: Pixels) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
