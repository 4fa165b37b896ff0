import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import quick
from wavessm_x.data.masks import COVERAGE, PIECE_COVERAGE, SHAPES, STYLES, blobs, draw, draw_piece


@quick
@given(st.integers(16, 300), st.integers(16, 300), st.integers(0, 2**32))
def test_masks_cover_15_to_50_percent(height: int, width: int, seed: int) -> None:
    mask = draw(height, width, np.random.default_rng(seed))
    assert mask.shape == (height, width)
    one_pixel = 1 / mask.size
    assert COVERAGE[0] - one_pixel <= mask.mean() <= COVERAGE[1] + one_pixel


@quick
@given(st.integers(1, 15), st.integers(1, 40), st.integers(0, 2**32))
def test_pictures_of_any_size_get_a_mask_that_is_not_empty(height: int, width: int, seed: int) -> None:
    for mask in (draw(height, width, np.random.default_rng(seed)), draw(width, height, np.random.default_rng(seed)).T):
        assert mask.shape == (height, width)
        assert mask.any()


def test_a_generator_in_the_same_state_draws_the_same_mask() -> None:
    first, again, other = (draw(64, 64, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("coverage", [0.0, 0.1, 0.333, 1.0])
def test_blobs_cover_what_they_are_told_to_the_pixel(coverage: float) -> None:
    count = int(blobs(30, 50, np.random.default_rng(0), coverage).sum())
    assert count == max(round(coverage * 1500), 1)


def test_every_style_is_drawn() -> None:
    """Lines have many edges for what they cover, boxes few: the spread says that styles differ."""
    edges = []
    for seed in range(40):
        mask = draw(128, 128, np.random.default_rng(seed))
        edges.append((np.diff(mask.astype(int), axis=0) != 0).sum() / mask.sum())
    assert max(edges) > 10 * min(edges)
    assert len(set(SHAPES)) == 5


@pytest.mark.parametrize("style", STYLES)
def test_a_style_that_is_named_is_drawn(style):
    assert COVERAGE[0] * 0.9 < draw(128, 128, np.random.default_rng(0), style=style).mean() <= COVERAGE[1]


def test_thin_lines_are_thinner_than_strokes():
    def border(style):
        mask = draw(256, 256, np.random.default_rng(0), style=style)
        return (mask[1:] != mask[:-1]).sum() / mask.sum()

    assert border("lines") > 3 * border("strokes")


def test_holes_of_a_piece_are_as_large_as_those_of_a_whole_picture():
    pieces = [draw_piece(32, 32, np.random.default_rng(seed)) for seed in range(60)]
    assert all(PIECE_COVERAGE[0] <= each.mean() <= PIECE_COVERAGE[1] for each in pieces)
    assert max(_widest(each) for each in pieces) > 1.5 * max(
        _widest(draw(32, 32, np.random.default_rng(seed), style="lines")) for seed in range(60)
    )


def test_a_large_patch_has_a_mask_of_its_own():
    assert draw_piece(300, 280, np.random.default_rng(0)).shape == (300, 280)


def _widest(mask):
    """Return the side of the largest square that fits into what is masked."""
    side = 1
    while np.lib.stride_tricks.sliding_window_view(mask, (side, side)).all(axis=(2, 3)).any():
        side += 1
    return side - 1
