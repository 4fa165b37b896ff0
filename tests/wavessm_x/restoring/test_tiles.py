"""Tiles overlap, their weights sum to one, and what they are put together to has no seams."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavessm_x.config import ConfigError
from wavessm_x.restoring.tiles import SLACK, Tiling, blended, weights


@st.composite
def tilings(draw):
    tile = draw(st.integers(16, 64))
    return Tiling(tile=tile, overlap=draw(st.integers(0, tile // 2)))


SIDES = st.integers(1, 500)


@given(tilings(), SIDES)
def test_pieces_cover_a_side_and_overlap_as_much_as_was_asked_for(tiling, side):
    pieces = tiling.cut(side)
    assert (pieces[0].start, pieces[-1].stop) == (0, side)
    for one, following in pairwise(pieces):
        assert one.start < following.start
        assert one.stop - following.start >= tiling.overlap
        assert one.stop - one.start == tiling.tile


@given(tilings(), SIDES)
def test_weights_are_above_zero_and_sum_to_one(tiling, side):
    total = np.zeros(side)
    pieces = tiling.cut(side)
    for piece, share in zip(pieces, weights(pieces), strict=True):
        assert (share > 0).all()
        total[piece] += share
    np.testing.assert_allclose(total, 1, atol=1e-6)


@given(tilings(), st.integers(1, 200), st.integers(1, 200))
@settings(max_examples=20, deadline=None)
def test_what_is_left_as_it_is_comes_back_as_it_was(tiling, height, width):
    picture = np.random.default_rng(0).random((height, width, 3), dtype=np.float32)
    back = blended(lambda tile: picture[tile], tiling, np.ones((height, width), dtype=bool))
    np.testing.assert_allclose(back, picture, atol=1e-6)


def test_a_side_that_is_hardly_longer_than_a_tile_is_not_cut():
    tiling = Tiling(tile=64, overlap=8)
    assert len(tiling.cut(int(64 * SLACK))) == 1
    assert len(tiling.cut(int(64 * SLACK) + 1)) == 2


def test_tiles_that_disagree_fade_into_one_another():
    tiling = Tiling(tile=64, overlap=16)
    shades = iter(range(100))

    def flat(tile):
        shade = next(shades)
        return np.full((tile[0].stop - tile[0].start, tile[1].stop - tile[1].start, 3), shade, np.float32)

    row = blended(flat, tiling, np.ones((20, 300), dtype=bool))[10, :, 0]
    steps = np.diff(row)
    assert row[-1] >= 5
    assert steps.min() >= 0
    assert steps.max() <= 1 / 16


def blurred(picture):
    """The mean over 9 by 9 pixels; it does not know what lies beyond the borders of what it is given."""
    for axis in (0, 1):
        moved = [np.pad(picture, [(4, 4) if each == axis else (0, 0) for each in range(3)], mode="edge")]
        picture = np.mean([np.take(moved[0], range(k, k + picture.shape[axis]), axis) for k in range(9)], axis=0)
    return picture.astype(np.float32)


def test_tiles_of_a_smooth_picture_come_near_to_the_whole_and_show_no_seams():
    down, across = np.mgrid[:150, :200]
    picture = 0.5 + 0.4 * np.stack([np.sin(down / 9), np.cos(across / 11), np.sin((down + across) / 10)], axis=-1)
    whole = blurred(picture)
    tiling = Tiling(tile=48, overlap=16)
    tiled = blended(lambda tile: blurred(picture[tile]), tiling, np.ones((150, 200), dtype=bool))
    assert np.abs(tiled - whole).max() < 0.04
    for axis in (0, 1):
        assert np.abs(np.diff(tiled - whole, axis=axis)).max() < 0.015


def test_only_tiles_with_something_wanted_are_processed():
    wanted = np.zeros((100, 300), dtype=bool)
    wanted[5, 290] = True
    seen = []

    def process(tile):
        seen.append(tile)
        return np.ones((*wanted[tile].shape, 3), np.float32)

    blend = blended(process, Tiling(tile=64, overlap=0), wanted)
    assert len(seen) == 1
    assert blend[5, 290].tolist() == [1, 1, 1]
    assert blend[99, 0].tolist() == [0, 0, 0]


def test_tiles_grow_where_a_hole_would_fill_one():
    mask = np.zeros((300, 300), dtype=bool)
    tiling = Tiling(tile=64, overlap=8)
    assert tiling.showing(mask) == tiling
    mask[60:180, 60:180] = True
    assert tiling.showing(mask) == Tiling(tile=128, overlap=16)


def test_tiles_do_not_grow_without_end_where_all_is_masked():
    assert Tiling(tile=64, overlap=8).showing(np.ones((900, 900), dtype=bool)) == Tiling(tile=256, overlap=32)


@pytest.mark.parametrize(
    ("tile", "overlap", "told"),
    [(8, 0, "tile is 8"), (64, 33, "overlap is 33; with tiles of 64 it must be 0 to 32"), (64, -1, "overlap is -1")],
)
def test_tiles_without_a_meaning_are_refused(tile, overlap, told):
    with pytest.raises(ConfigError, match=told):
        Tiling(tile=tile, overlap=overlap)
