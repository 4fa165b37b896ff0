from pathlib import Path

import numpy as np
import pytest

from wavessm_x.data.reading import read
from wavessm_x.data.synthetic import photograph, photographs


@pytest.mark.parametrize("size", [1, 2, 33])
def test_pictures_have_the_size_that_is_asked_for(tmp_path: Path, size: int) -> None:
    paths = photographs(tmp_path / "new", 2, size)
    assert [path.name for path in paths] == ["0000.png", "0001.png"]
    assert all(read(path).shape == (size, size, 3) for path in paths)


def test_a_picture_depends_on_the_seed_and_its_number_alone(tmp_path: Path) -> None:
    few, more, others = (
        photographs(tmp_path / str(place), count, 16, seed)
        for place, (count, seed) in enumerate([(2, 1), (3, 1), (2, 2)])
    )
    np.testing.assert_array_equal(read(few[1]), read(more[1]))
    assert (read(few[1]) != read(others[1])).any()


def test_pictures_are_neither_flat_nor_noise() -> None:
    pictures = [photograph(64, np.random.default_rng(seed)).astype(float) for seed in range(8)]
    for picture in pictures:
        assert picture.std() > 15
        assert np.abs(np.diff(picture, axis=1)).mean() < picture.std()
