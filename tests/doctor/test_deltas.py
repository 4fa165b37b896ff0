"""How far elements lie apart: exact against numpy in float64, whatever the layout and the element type."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import FLOATS, LAYOUTS, lay_out, quick, raws
from torchmend.doctor.deltas import chunk_pairs, delta_of, distinct_pair
from torchmend.facts.dtypes import DTYPES
from torchmend.measure.bits import damaged, decode_any
from torchmend.reports.comparison import Delta

FLOAT32 = DTYPES["float32"]


def bits(*values, dtype=np.float32):
    return np.array(values, dtype=dtype).view(f"u{np.dtype(dtype).itemsize}")


@st.composite
def twins(draw):
    """Draw a float type and two arrays of one shape."""
    dtype = draw(st.sampled_from([each for each in FLOATS if each.name != "float64"]))
    a = draw(raws(dtype, min_dims=1, min_side=1))
    order = draw(st.permutations(range(a.size)))
    return dtype, a, a.reshape(-1)[list(order)].reshape(a.shape)


@quick
@given(twins())
def test_sums_are_those_of_numpy_over_elements_sound_in_both(drawn):
    dtype, a, b = drawn
    found = delta_of(a, b, dtype)
    bad = damaged(a, dtype, nonnegative=False) | damaged(b, dtype, nonnegative=False)
    x, y = decode_any(a, dtype)[~bad], decode_any(b, dtype)[~bad]
    assert found.squared_before == pytest.approx((x * x).sum())
    assert found.squared_delta == pytest.approx(((y - x) ** 2).sum())
    assert found.largest == np.abs(y - x).max(initial=0.0)


@quick
@given(twins())
def test_the_way_back_heals_what_the_way_there_broke(drawn):
    dtype, a, b = drawn
    there, back = delta_of(a, b, dtype, nonnegative=True), delta_of(b, a, dtype, nonnegative=True)
    assert (there.broke, there.healed, there.largest) == (back.healed, back.broke, back.largest)
    assert there.squared_delta == pytest.approx(back.squared_delta)


@quick
@given(twins())
def test_nothing_moves_between_equal_arrays(drawn):
    dtype, a, _ = drawn
    found = delta_of(a, a.copy(), dtype)
    assert (found.relative, found.largest, found.broke, found.healed) == (0, 0, 0, 0)


@quick
@given(twins(), st.sampled_from(LAYOUTS), st.sampled_from([2, 4, 1000]))
def test_chunks_of_any_layout_are_the_elements_in_order(drawn, kind, limit):
    dtype, a, _ = drawn
    view = lay_out(a, dtype, kind)
    other = np.array(view, order="C")
    pieces = list(chunk_pairs(view, other, limit))
    assert all(len(x) == len(y) <= max(limit, 1) for x, y in pieces)
    flat = view.astype(view.dtype.newbyteorder("=")).reshape(-1).tolist()
    assert [v for x, _ in pieces for v in x.tolist()] == [v for _, y in pieces for v in y.tolist()] == flat


def test_a_negative_variance_counts_as_broken():
    found = delta_of(bits(1.0, 2.0), bits(1.0, -2.0), FLOAT32, nonnegative=True)
    assert (found.broke, found.squared_delta) == (1, 0.0)


def test_a_complex_element_counts_once():
    a = bits(1.0, 2.0, 3.0, 4.0).reshape(2, 2)
    b = bits(np.nan, np.inf, 3.0, 5.0).reshape(2, 2)
    found = delta_of(a, b, DTYPES["complex64"])
    assert (found.numel, found.broke, found.squared_delta) == (2, 1, 1.0)


def test_integers_are_compared_as_numbers():
    found = delta_of(bits(1, 2, dtype=np.int64), bits(1, -2, dtype=np.int64), DTYPES["int64"])
    assert found.largest == 4.0


def test_a_change_from_zeros_is_infinite_and_none_is_zero():
    assert delta_of(bits(0.0), bits(1.0), FLOAT32).relative == np.inf
    assert delta_of(bits(0.0), bits(0.0), FLOAT32).relative == 0.0


def test_axes_that_both_expand_are_looked_at_once():
    a = np.broadcast_to(bits(1.0, 2.0), (1 << 50, 2))
    small, _, repeats = distinct_pair(a, a)
    assert (small.shape, repeats) == ((1, 2), 1 << 50)


def test_pieces_add_up():
    whole = delta_of(bits(1.0, 2.0, 3.0), bits(2.0, np.nan, 5.0), FLOAT32)
    parts = delta_of(bits(1.0), bits(2.0), FLOAT32) + delta_of(bits(2.0, 3.0), bits(np.nan, 5.0), FLOAT32)
    assert whole == parts + Delta()
