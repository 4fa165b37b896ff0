import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import quick
from wavessm_x.data.patches import fit, grow, patch, squeeze
from wavessm_x.data.synthetic import photograph


def numbered(height: int, width: int) -> np.ndarray:
    """Give a picture whose pixels tell where they are."""
    down, across = np.mgrid[0:height, 0:width]
    return np.stack([down, across, 0 * down], axis=2).astype(np.uint8)


@quick
@given(st.integers(1, 60), st.integers(1, 60), st.integers(16, 40), st.integers(0, 2**32))
def test_patches_have_the_size_that_is_wanted_and_only_pixels_of_the_picture(
    height: int, width: int, size: int, seed: int
) -> None:
    cut = patch(numbered(height, width), size, np.random.default_rng(seed))
    assert cut.shape == (size, size, 3)
    assert cut[..., 0].max() < height
    assert cut[..., 1].max() < width


def test_patches_come_from_anywhere_and_all_eight_ways_round() -> None:
    picture = numbered(24, 24)
    cuts = [patch(picture, 16, np.random.default_rng(seed)) for seed in range(300)]
    assert {int(cut[..., 0].min()) for cut in cuts} == set(range(9))
    ways = {(tuple(cut[0, 0] // 16), tuple(cut[0, -1] // 16)) for cut in (c - c.min(axis=(0, 1)) + 1 for c in cuts)}
    assert len(ways) == 8


def test_all_layers_of_a_pair_are_cut_alike() -> None:
    picture = photograph(40, np.random.default_rng(0))
    cut = patch(np.concatenate([picture, picture], axis=2), 16, np.random.default_rng(7))
    np.testing.assert_array_equal(cut[..., :3], cut[..., 3:])


@quick
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 50))
def test_growing_keeps_the_picture_and_reflects_it(height: int, width: int, size: int) -> None:
    picture = numbered(height, width)
    grown = grow(picture, size)
    assert grown.shape == (max(height, size), max(width, size), 3)
    np.testing.assert_array_equal(grown[:height, :width], picture)
    if size > height > 1:
        np.testing.assert_array_equal(grown[height, :width], picture[height - 2])


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (50, 3), (40, 40)])
def test_pictures_are_fitted_and_squeezed_to_any_size(shape: tuple[int, int]) -> None:
    picture = np.full((10, 20, 3), 9, np.uint8)
    for change in (fit, squeeze):
        np.testing.assert_array_equal(change(picture, *shape), np.full((*shape, 3), 9))


def test_fitting_cuts_at_the_middle_and_squeezing_keeps_the_margins() -> None:
    picture = np.zeros((10, 30, 3), np.uint8)
    picture[:, 10:20] = 255
    assert fit(picture, 10, 10).min() == 255
    assert squeeze(picture, 10, 10)[5, 0, 0] == 0
