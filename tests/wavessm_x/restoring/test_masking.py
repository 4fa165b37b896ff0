"""Masks from files, from transparency, and widened."""

import numpy as np
import pytest
from PIL import Image

from wavessm_x.restoring import RestoringError
from wavessm_x.restoring.masking import dilated, read_masked


@pytest.fixture
def layers():
    """Random colours, opaque but for a corner that is half opaque at most."""
    layers = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    layers[..., 3] = 255
    layers[:5, :7, 3] = 127
    layers[5:9, :7, 3] = 128
    return layers


def test_what_is_transparent_is_filled_and_colours_are_those_stored(tmp_path, layers):
    Image.fromarray(layers).save(tmp_path / "a.png")
    picture, mask = read_masked(tmp_path / "a.png", None)
    assert np.array_equal(picture, layers[..., :3])
    assert np.array_equal(np.argwhere(mask), np.argwhere(np.ones((5, 7))))


def test_a_mask_goes_before_transparency_which_becomes_white(tmp_path, layers):
    layers[..., 3] = 0
    Image.fromarray(layers).save(tmp_path / "a.png")
    Image.fromarray(np.eye(20, 30, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
    picture, mask = read_masked(tmp_path / "a.png", tmp_path / "mask.png")
    assert (picture == 255).all()
    assert np.array_equal(mask, np.eye(20, 30, dtype=bool))


def test_white_begins_at_the_middle(tmp_path, layers):
    Image.fromarray(layers).save(tmp_path / "a.png")
    Image.fromarray(np.array([[127, 128]], np.uint8)).save(tmp_path / "mask.png")
    assert read_masked(tmp_path / "a.png", tmp_path / "mask.png")[1].tolist() == [[False, True]]


@pytest.mark.parametrize("channels", [3, 4], ids=["RGB", "RGBA"])
def test_a_picture_that_is_opaque_needs_a_mask(tmp_path, layers, channels):
    layers[..., 3] = 255
    Image.fromarray(layers[..., :channels]).save(tmp_path / "a.png")
    with pytest.raises(RestoringError, match=r"Nothing says where .*a\.png is to be filled"):
        read_masked(tmp_path / "a.png", None)


@pytest.mark.parametrize("pixels", [0, 1, 3, 40])
def test_masks_are_widened_in_all_directions(pixels):
    mask = np.zeros((30, 20), dtype=bool)
    mask[10, 12] = True
    expected = np.zeros_like(mask)
    expected[max(10 - pixels, 0) : 11 + pixels, max(12 - pixels, 0) : 13 + pixels] = True
    assert np.array_equal(dilated(mask, pixels), expected)
