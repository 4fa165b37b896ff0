"""How numbers, tensors and counts are written."""

import dataclasses
import math

import pytest

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Finding, Measure
from torchmend.facts.tensors import Role, Scalar, TensorRef
from torchmend.reports.wording import (
    channels,
    counted,
    counts,
    extra,
    listed,
    place,
    plain,
    shape,
    shown_value,
    size,
    what,
)


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
    assert text == "negative 2 / 64   smallest -0.25"


def test_counts_of_a_tensor_without_damage_are_empty():
    assert counts(Measure(numel=64)) == ""


def test_counts_name_negative_elements_beside_those_that_are_not_finite():
    text = counts(Measure(numel=64, nan=1, negative=2, minimum=-0.25), nonnegative=True)
    assert text == "NaN 1 / 64   Inf 0 / 64   negative 2 / 64   smallest -0.25"


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


@pytest.mark.parametrize(
    ("role", "averaged", "text"),
    [
        (Role.WEIGHT, False, "weight"),
        (Role.WEIGHT, True, "averaged copy of a weight"),
        (Role.FIRST_MOMENT, False, "optimizer's first moment"),
        (Role.SECOND_MOMENT, False, "optimizer's second moment"),
        (Role.OPTIMIZER_STEP, False, "optimizer step"),
    ],
)
def test_a_tensor_is_called_what_it_is_for(role, averaged, text):
    assert what(dataclasses.replace(ref(), role=role, averaged=averaged)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0"), (float("nan"), "nan"), (-math.inf, "-inf"), (3, "3"), (True, "True"), ("a", "'a'")],
)
def test_a_value_is_shown_as_python_shows_it(value, text):
    assert shown_value(value) == text


def test_a_long_text_among_the_metadata_is_cut():
    assert len(shown_value("x" * 500)) == 60


def about(value, detail):
    scalar = Scalar(path=("scaler", "scale"), value=value) if value is not None else None
    return Finding(
        code=Code.SCALER_BROKEN, severity=Severity.ERROR, message="It is.", remedy="Do.", scalar=scalar, detail=detail
    )


@pytest.mark.parametrize(
    ("value", "detail", "text"),
    [
        (0.0, "scale 0", ""),
        (float("nan"), "nan", ""),
        (0, "0, beside moments that have moved", "0, beside moments that have moved"),
        (3, "3 here, 12 in 7 of 8 parameters", "3 here, 12 in 7 of 8 parameters"),
        (None, "archive/data/3", "archive/data/3"),
    ],
)
def test_a_detail_is_shown_only_where_it_says_more_than_the_value(value, detail, text):
    assert extra(about(value, detail)) == text
