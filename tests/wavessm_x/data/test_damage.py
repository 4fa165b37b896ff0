import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import quick
from wavessm_x.data.damage import FILLINGS, Spot, damage
from wavessm_x.data.patches import fit
from wavessm_x.data.reading import Pixels
from wavessm_x.data.synthetic import photograph

PICTURE, LAID_OVER = (photograph(64, np.random.default_rng(seed)) for seed in (1, 2))


def other(height: int, width: int) -> Pixels:
    return fit(LAID_OVER, height, width)


@quick
@given(st.integers(0, 2**32))
def test_up_to_half_of_a_picture_is_damaged_and_the_rest_is_untouched(seed: int) -> None:
    spoilt = damage(PICTURE, np.random.default_rng(seed), other)
    assert spoilt.shape == PICTURE.shape
    assert spoilt.dtype == np.uint8
    changed = (spoilt != PICTURE).any(axis=2).mean()
    assert 0 < changed <= 0.51


def test_most_pictures_are_damaged_by_a_seventh_or_more() -> None:
    shares = [(damage(PICTURE, np.random.default_rng(seed), other) != PICTURE).any(axis=2).mean() for seed in range(60)]
    assert np.quantile(shares, 0.2) > 1 / 7


def test_the_clean_picture_is_left_as_it_is() -> None:
    kept = PICTURE.copy()
    damage(PICTURE, np.random.default_rng(0), other)
    np.testing.assert_array_equal(PICTURE, kept)


def test_a_generator_in_the_same_state_does_the_same_damage() -> None:
    first, again, third = (damage(PICTURE, np.random.default_rng(seed), other) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != third).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3), (17, 5)])
def test_pictures_of_any_size_can_be_damaged(shape: tuple[int, int]) -> None:
    small = fit(PICTURE, *shape)
    for seed in range(30):
        assert damage(small, np.random.default_rng(seed), other).shape == (*shape, 3)


@pytest.mark.parametrize("filling", FILLINGS, ids=lambda filling: filling.__name__)
def test_every_filling_changes_a_textured_picture(filling: object) -> None:
    region = np.zeros((64, 64), np.bool_)
    region[10:50, 20:60] = True
    made = filling(Spot(PICTURE, *np.nonzero(region), np.random.default_rng(0), other))
    assert (made != PICTURE[region]).any(axis=1).mean() > 0.5


@pytest.mark.parametrize("name", ["_smear", "_swirl"])
def test_smears_and_swirls_leave_even_ground_as_it_is(name: str) -> None:
    even = np.full((20, 30, 3), 77, np.uint8)
    [filling] = [each for each in FILLINGS if each.__name__ == name]
    rows, columns = np.nonzero(np.ones((20, 30)))
    made = filling(Spot(even, rows, columns, np.random.default_rng(0), other))
    np.testing.assert_array_equal(made, even.reshape(-1, 3))
