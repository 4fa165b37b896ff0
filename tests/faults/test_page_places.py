"""The page says who names the right place."""

import pytest

from benchmarks.faults.anomaly import Anomaly
from benchmarks.faults.ours import Torchmend
from benchmarks.faults.page_places import places
from benchmarks.faults.places import Located, Side, Told, Truth
from fault_scores import case, results, score

RIGHT = Told(step=10, side=Side.MODULE, name="a", operation="div", words="module a did it")
WRONG = Told(step=10, side=Side.LOSS, name="after", words="the loss did it")


def written(*ours, about=None):
    """Return the part for one case, with what torchmend said of it, one a seed."""
    seeds = range(len(ours))
    found = [Located(case="overflow", tool="torchmend", seed=seed, told=told) for seed, told in zip(seeds, ours)]  # noqa: B905
    data = results([score(seed=seed) for seed in seeds], seeds, found)
    return places(data, [about or case()], (Anomaly, Torchmend))


def row(text, first):
    line = next(each for each in text.splitlines() if each.startswith(f"| {first}"))
    return [each.strip() for each in line.strip("|").split(" | ")]


def test_a_place_counts_with_every_seed_only():
    assert row(written(RIGHT, RIGHT), "torchmend")[2:] == ["1 (100 %)", "1 of 1", "0", "0"]
    assert row(written(RIGHT, WRONG), "torchmend")[2:] == ["0 (0 %)", "0 of 1", "1", "0"]


def test_a_tool_that_says_nothing_is_counted_so():
    assert row(written(RIGHT), "anomaly mode")[1:] == ["1", "0 (0 %)", "0 of 1", "0", "1"]


@pytest.mark.parametrize(
    ("ours", "cell"),
    [
        ((RIGHT,), "**module**: `a`, `div`"),
        ((RIGHT, WRONG), "module (1 of 2), wrong (1 of 2): `a`, `div`"),
        ((WRONG,), "wrong: `the loss`"),
        ((None,), "nothing"),
    ],
)
def test_a_cell_tells_the_verdict_and_what_was_named(ours, cell):
    assert row(written(*ours), "[overflow]")[-1] == cell


def test_a_row_tells_where_the_fault_is():
    about = case(truth=Truth(sides=(Side.MODULE,), names=("a", "b"), operations=("div",), backward=True, about="c"))
    assert row(written(RIGHT, about=about), "[overflow]")[1] == "module `a`, backward of `div` (as good: `b`); c"


def test_a_case_without_a_place_is_told_with_its_reason_and_what_was_said_nevertheless():
    text = written(RIGHT, about=case(truth=Truth(because="all is finite")))
    assert "0 cases of 1 have a place" in text
    assert "- [overflow](#overflow): all is finite. Still, torchmend names `module a did it`." in text


def test_results_without_places_are_refused():
    data = {**results([score()]), "places": []}
    with pytest.raises(ValueError, match=r"overflow by torchmend.*run the bench again"):
        places(data, [case()], (Torchmend,))
