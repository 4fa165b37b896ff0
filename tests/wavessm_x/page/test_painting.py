"""Paint, in any layer and however thin, says where a photo is to be filled; so does its transparency."""

import numpy as np
import pytest

from wavessm_x.page.painting import NothingToFillError, picture_and_mask


def photo():
    drawn = np.random.default_rng(0).integers(0, 256, (6, 9, 4), dtype=np.uint8)
    drawn[..., 3] = 255
    return drawn


def layer(*painted, alpha=255):
    empty = np.zeros((6, 9, 4), np.uint8)
    for row, column in painted:
        empty[row, column] = (0, 0, 0, alpha)
    return empty


def where(mask):
    return [tuple(each) for each in np.argwhere(mask).tolist()]


def test_the_photo_comes_back_as_it_was():
    background = photo()
    picture, _ = picture_and_mask({"background": background, "layers": [layer((0, 0))], "composite": None})
    assert np.array_equal(picture, background[..., :3])


def test_paint_of_every_layer_is_filled_also_if_it_is_black_or_faint():
    layers = [layer((1, 2)), layer((3, 4), alpha=1)]
    _, mask = picture_and_mask({"background": photo(), "layers": layers, "composite": None})
    assert where(mask) == [(1, 2), (3, 4)]


def test_what_is_transparent_in_the_photo_is_filled_without_paint():
    background = photo()
    background[5, 8, 3] = 0
    _, mask = picture_and_mask({"background": background, "layers": [], "composite": None})
    assert where(mask) == [(5, 8)]


@pytest.mark.parametrize(
    ("painted", "told"),
    [
        (None, "Load a photo first"),
        ({"background": None, "layers": [layer((0, 0))], "composite": None}, "Load a photo first"),
        ({"background": photo(), "layers": [], "composite": None}, "Paint over what is to be filled first"),
        ({"background": photo(), "layers": [layer()], "composite": None}, "Paint over what is to be filled first"),
    ],
    ids=["nothing", "paint without a photo", "a photo alone", "an empty layer"],
)
def test_a_button_pressed_too_early_is_answered_by_what_comes_first(painted, told):
    with pytest.raises(NothingToFillError, match=told):
        picture_and_mask(painted)
