"""Holes are filled from what is around them, and all else is left alone."""

import pytest
import torch

from wavessm_x.model.filling import filled


@pytest.fixture
def picture():
    return torch.rand(2, 3, 37, 50, generator=torch.Generator().manual_seed(0))


def ramp(height, width):
    return (torch.arange(width) / width).expand(1, 3, height, width).contiguous()


def square(height, width, top, left, side):
    mask = torch.zeros(1, 1, height, width)
    mask[..., top : top + side, left : left + side] = 1
    return mask


def test_what_is_known_stays_to_the_bit(picture):
    mask = (torch.rand(2, 1, 37, 50) < 0.4).float()
    known = (mask == 0).expand_as(picture)
    assert torch.equal(filled(picture, mask)[known], picture[known])


def test_what_stands_under_the_mask_does_not_matter(picture):
    mask = square(37, 50, 5, 5, 20).expand(2, -1, -1, -1)
    assert torch.equal(filled(picture, mask), filled(picture.masked_fill(mask > 0, 0.5), mask))


def test_a_flat_picture_is_filled_with_its_own_colour():
    flat = torch.full((1, 3, 40, 40), 0.3)
    assert torch.allclose(filled(flat, square(40, 40, 4, 4, 30)), flat, atol=1e-6)


def test_a_slope_goes_on_through_a_line():
    picture, line = ramp(40, 40), torch.zeros(1, 1, 40, 40)
    line[..., 20:22] = 1
    assert (filled(picture, line) - picture).abs().max() < 2e-3


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (300, 20)])
def test_a_hole_lies_between_the_values_around_it(size):
    height, width = size
    mask = square(height, width, 2, 2, 12)
    hole = filled(ramp(height, width), mask)[(mask > 0).expand(1, 3, -1, -1)]
    assert hole.min() > -0.05
    assert hole.max() < 1.05


def test_one_known_pixel_colours_everything():
    picture, mask = torch.zeros(1, 3, 64, 64), torch.ones(1, 1, 64, 64)
    picture[..., 3, 60], mask[..., 3, 60] = 0.7, 0
    assert torch.allclose(filled(picture, mask), torch.full_like(picture, 0.7), atol=1e-3)


def test_nothing_known_gives_black_and_no_nan(picture):
    assert torch.equal(filled(picture, torch.ones(2, 1, 37, 50)), torch.zeros_like(picture))


def test_autocast_does_not_coarsen_it(picture):
    mask = square(37, 50, 5, 5, 20).expand(2, -1, -1, -1)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = filled(picture, mask)
    assert torch.equal(coarse, filled(picture, mask))
