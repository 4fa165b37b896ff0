"""The picture is a PNG file, and shows what the scores tell."""

import pytest
from matplotlib.image import imread

from benchmarks.faults.grid import Grid
from benchmarks.faults.picture import draw
from fault_scores import case, lost, results, score


def drawn(path, ours):
    scores = [lost(protection="none"), ours]
    draw(Grid.of(results(scores), [case()], ["none", "torchmend"]), path)
    return imread(path, format="png")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    return drawn(tmp_path_factory.mktemp("pictures") / "healthy.png", score())


def test_a_png_file_is_written(tmp_path):
    drawn(tmp_path / "picture", score())
    assert (tmp_path / "picture").read_bytes().startswith(b"\x89PNG\r\n")


def test_the_picture_is_as_wide_as_a_page(healthy):
    assert healthy.shape[1] == 1080


def test_another_metric_is_another_picture(tmp_path, healthy):
    other = drawn(tmp_path / "other.png", score(metric=0.5))
    assert (other != healthy).any()


def test_a_metric_that_is_not_a_number_is_drawn_as_nothing_left(tmp_path):
    odd = drawn(tmp_path / "nan.png", lost(metric=float("nan")))
    assert (odd == drawn(tmp_path / "zero.png", lost(metric=0.0))).all()


@pytest.mark.parametrize(
    "change", [{"met": False}, {"recovered": False}, {"false_alarms": 1}], ids=["lost", "told", "alarm"]
)
def test_what_a_mark_tells_changes_the_picture(tmp_path, healthy, change):
    assert (drawn(tmp_path / "other.png", score(**change)) != healthy).any()
