import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import COMPLEX, FLOATS, LAYOUTS, flatten_all, floating_dtypes, lay_out, layouts, quick
from torchmend.facts.dtypes import DTYPES, DType, Kind
from torchmend.measure.bits import raw_dtype
from torchmend.measure.chunks import CHUNK_BYTES, distinct, flat_chunks

F32 = DTYPES["float32"]


@quick
@given(st.data(), floating_dtypes, st.integers(1, 7))
def test_the_pieces_joined_are_the_whole_in_row_major_order(data: st.DataObject, dtype: DType, limit: int) -> None:
    laid = data.draw(layouts(dtype))
    assert flatten_all(flat_chunks(laid.view, limit)) == flatten_all([laid.copy])


@quick
@given(st.data(), floating_dtypes, st.integers(1, 7))
def test_no_piece_is_longer_than_the_limit(data: st.DataObject, dtype: DType, limit: int) -> None:
    laid = data.draw(layouts(dtype))
    assert all(len(chunk) <= limit for chunk in flat_chunks(laid.view, limit))


@quick
@given(st.data(), floating_dtypes)
def test_every_piece_is_flat_and_in_native_byte_order(data: st.DataObject, dtype: DType) -> None:
    laid = data.draw(layouts(dtype))
    assert all(chunk.ndim == 1 and chunk.dtype.isnative for chunk in flat_chunks(laid.view))


@pytest.mark.parametrize("kind", [k for k in LAYOUTS if k != "big-endian"])
def test_a_large_array_of_any_layout_comes_in_pieces_of_bounded_size(kind: str) -> None:
    raw = np.arange(2 * CHUNK_BYTES // 4, dtype="<u4").reshape(512, -1)
    view = lay_out(raw, F32, kind)
    assert all(chunk.nbytes <= CHUNK_BYTES for chunk in flat_chunks(view))


def test_pieces_of_a_contiguous_array_are_views() -> None:
    raw = np.arange(100, dtype="<u4").reshape(10, 10)
    assert all(np.shares_memory(chunk, raw) for chunk in flat_chunks(raw, 7))


def test_a_piece_of_a_complex_array_never_splits_an_element() -> None:
    raw = np.zeros((3, CHUNK_BYTES // 4, 2), dtype="<u4").transpose(1, 0, 2)
    assert all(len(chunk) % 2 == 0 for chunk in flat_chunks(raw))


def test_an_empty_array_has_no_pieces() -> None:
    assert list(flat_chunks(np.empty((3, 0, 2), dtype="<u4"))) == []


def test_a_zero_dimensional_array_is_one_piece_of_one_element() -> None:
    assert flatten_all(flat_chunks(np.array(7, dtype=">u4"))) == [7]


@quick
@given(st.data(), floating_dtypes)
def test_the_distinct_elements_times_their_repeats_are_all_elements(data: st.DataObject, dtype: DType) -> None:
    laid = data.draw(layouts(dtype))
    view, repeats = distinct(laid.view, pairs=dtype.kind is Kind.COMPLEX)
    assert sorted(flatten_all([view]) * repeats) == sorted(flatten_all([laid.copy]))


@pytest.mark.parametrize("dtype", FLOATS + COMPLEX, ids=lambda d: d.name)
def test_the_distinct_elements_of_an_expanded_array_are_those_before_it_was_expanded(dtype: DType) -> None:
    parts = (2,) if dtype.kind is Kind.COMPLEX else ()
    raw = np.arange(12, dtype=raw_dtype(dtype)).reshape(-1, *parts)
    view, repeats = distinct(np.broadcast_to(raw, (5, *raw.shape)), pairs=bool(parts))
    assert (view.size, repeats) == (12, 5)


def test_the_distinct_elements_of_a_transposed_array_are_in_memory_order() -> None:
    raw = np.arange(24, dtype="<u4").reshape(2, 3, 4)
    view, _ = distinct(raw.transpose(2, 0, 1))
    assert view.flags.c_contiguous


def test_the_parts_of_complex_elements_stay_side_by_side() -> None:
    raw = np.arange(12, dtype="<u4").reshape(2, 3, 2)
    view, _ = distinct(raw.transpose(1, 0, 2), pairs=True)
    assert flatten_all([view]) == list(range(12))


def test_distinct_elements_are_a_view() -> None:
    raw = np.arange(12, dtype="<u4").reshape(3, 4)
    assert np.shares_memory(distinct(np.broadcast_to(raw, (2, 3, 4)))[0], raw)


@pytest.mark.parametrize("kind", ["<u2", "<u4", ">u4", "<u8"])
def test_elements_at_odd_addresses_come_aligned(kind: str) -> None:
    data = np.random.default_rng(1).integers(0, 256, 8 * 40 + 1, np.uint8)
    raw = data[1:].view(kind)
    chunks = list(flat_chunks(raw, limit=7))
    assert not raw.flags.aligned
    assert all(chunk.flags.aligned for chunk in chunks)
    assert np.concatenate(chunks).tolist() == raw.tolist()
