"""How numbers, tensors and counts are written."""

import pytest

from torchmend.facts.findings import Measure
from torchmend.facts.tensors import TensorRef
from torchmend.reports.wording import channels, counted, counts, listed, place, plain, shape, size


def ref(container="model", shape=(64,)):
    return TensorRef(source="x", container=container, name="bn.running_mean", shape=shape, dtype="float16")


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (21_300_000, "21.3 MB"),
        (1_000_000_000, "1.0 GB"),
        (7_000_000_000_000, "7.0 TB"),
        (7_000_000_000_000_000, "7000.0 TB"),
    ],
)
def test_sizes_have_units_of_a_thousand(nbytes, text):
    assert size(nbytes) == text


@pytest.mark.parametrize("nbytes", [999_999, 999_950_000, 999_999_999_999])
def test_a_size_just_below_a_unit_is_not_written_as_a_thousand_of_the_smaller(nbytes):
    assert not size(nbytes).startswith("1000")


@pytest.mark.parametrize(
    ("number", "noun", "plural", "text"),
    [
        (0, "tensor", "", "0 tensors"),
        (1, "tensor", "", "1 tensor"),
        (2, "tensor", "", "2 tensors"),
        (12345, "tensor", "", "12,345 tensors"),
        (1, "entry", "entries", "1 entry"),
        (3, "entry", "entries", "3 entries"),
    ],
)
def test_a_noun_follows_its_number(number, noun, plural, text):
    assert counted(number, noun, plural) == text


@pytest.mark.parametrize(("container", "text"), [("model", "model / bn.running_mean"), ("", "bn.running_mean")])
def test_a_place_names_the_container_if_there_is_one(container, text):
    assert place(ref(container)) == text


@pytest.mark.parametrize(("sizes", "text"), [((64,), "float16 [64]"), ((), "float16 []"), ((3, 4), "float16 [3, 4]")])
def test_a_shape_is_written_as_type_and_list(sizes, text):
    assert shape(ref(shape=sizes)) == text


def test_counts_say_how_many_of_how_many():
    text = counts(Measure(numel=9216, nan=2000, pos_inf=1, neg_inf=2))
    assert text == "NaN 2,000 / 9,216   Inf 3 / 9,216"


def test_counts_name_negative_elements_where_they_are_damage():
    text = counts(Measure(numel=64, negative=2, minimum=-0.25), nonnegative=True)
    assert text == "NaN 0 / 64   Inf 0 / 64   negative 2 / 64   smallest -0.25"


def test_counts_do_not_name_negative_elements_where_there_are_none():
    assert "negative" not in counts(Measure(numel=64, negative=0, minimum=0.1))


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (None, ""),
        ((), ""),
        ((0, 1, 2, 3), "   channels: all 4"),
        ((1, 3), "   channels: 1, 3 of 4"),
    ],
)
def test_channels_are_listed_or_summed_up(bad, text):
    assert channels(Measure(numel=4, bad_channels=bad)) == text


def test_only_the_first_channels_of_many_are_listed():
    assert channels(Measure(numel=64, bad_channels=tuple(range(20)))).endswith("6, 7 and 12 more of 64")


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([5], "5"), (range(8), "0, 1, 2, 3, 4, 5, 6, 7"), (range(10, 13), "10, 11, 12")]
)
def test_a_list_is_written_out(numbers, text):
    assert listed(numbers) == text


def test_a_long_list_ends_with_how_many_are_left_out():
    assert listed(range(10), most=3) == "0, 1, 2 and 7 more"


def test_plain_paint_leaves_text_alone():
    assert plain("text", "red") == "text"
