from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import quick
from wavessm_x.data.folders import DataError, Picture
from wavessm_x.data.splitting import split

HERE = Path("pictures")


def pictures(digests: list[int]) -> list[Picture]:
    return [
        Picture(name=str(place), target=HERE / f"{place}.png", digest=str(digest))
        for place, digest in enumerate(digests)
    ]


@quick
@given(
    st.lists(st.integers(0, 20), min_size=2).filter(lambda each: len(set(each)) > 1),
    st.floats(0.01, 0.99),
    st.integers(),
)
def test_every_picture_lands_on_one_side_with_its_copies(digests: list[int], share: float, seed: int) -> None:
    every = pictures(digests)
    training, validation = split(every, share, seed, HERE)
    assert sorted(training + validation, key=every.index) == every
    assert training
    assert validation
    assert not {each.digest for each in training} & {each.digest for each in validation}


def test_the_share_is_kept_to(tmp_path: Path) -> None:
    training, validation = split(pictures(list(range(50))), 0.1, 3, HERE)
    assert (len(training), len(validation)) == (45, 5)


def test_another_seed_splits_otherwise() -> None:
    every = pictures(list(range(50)))
    assert split(every, 0.5, 1, HERE) != split(every, 0.5, 2, HERE)


def test_the_order_and_the_names_change_nothing() -> None:
    digests = list(range(20))
    _, validation = split(pictures(digests), 0.3, 1, HERE)
    _, reversed_validation = split(pictures(digests[::-1]), 0.3, 1, HERE)
    assert {each.digest for each in validation} == {each.digest for each in reversed_validation}


def test_one_more_picture_moves_at_most_two() -> None:
    before = {each.digest for each in split(pictures(list(range(50))), 0.2, 1, HERE)[1]}
    after = {each.digest for each in split(pictures(list(range(51))), 0.2, 1, HERE)[1]}
    assert len(before ^ after) <= 2


@pytest.mark.parametrize("digests", [[1], [1, 1, 1]])
def test_too_few_distinct_pictures_are_refused(digests: list[int]) -> None:
    with pytest.raises(DataError, match=rf"pictures holds {len(digests)} usable picture\(s\), 1 of them distinct"):
        split(pictures(digests), 0.1, 1, HERE)
