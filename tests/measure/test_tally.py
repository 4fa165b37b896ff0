import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strategies import (
    COMPLEX,
    FLOATING,
    FLOATS,
    LAYOUTS,
    as_torch,
    every_pattern,
    float_dtypes,
    floating_dtypes,
    lay_out,
    layouts,
    quick,
    raws,
)
from torchmend.facts.dtypes import DTYPES, DType, Kind
from torchmend.facts.findings import Measure
from torchmend.measure.bits import raw_dtype
from torchmend.measure.tally import Screen, bad_indices, count, merge, screen, screened_measure

SMALL = [dtype for dtype in FLOATS if dtype.itemsize < 4]


def counted_by_torch(raw: np.ndarray, dtype: DType) -> Measure:
    parts = as_torch(raw, dtype).double().reshape(-1, 2 if dtype.kind is Kind.COMPLEX else 1)
    nan = parts.isnan().any(dim=1)
    pos = (parts == torch.inf).any(dim=1) & ~nan
    neg = (parts == -torch.inf).any(dim=1) & ~nan & ~pos
    finite = parts[parts.isfinite()]
    return Measure(
        numel=len(parts),
        nan=int(nan.sum()),
        pos_inf=int(pos.sum()),
        neg_inf=int(neg.sum()),
        absmax=float(finite.abs().max()) if finite.numel() else 0.0,
        negative=int((parts < 0).any(dim=1).sum()),
        zeros=int((parts == 0).all(dim=1).sum()),
        minimum=float(finite.min()) if finite.numel() else None,
        maximum=float(finite.max()) if finite.numel() else None,
    )


def patterned(dtype: DType, *shape: int) -> np.ndarray:
    """Deterministic random bits, with parts for complex types."""
    shape = (*shape, 2) if dtype.kind is Kind.COMPLEX else shape
    size = int(np.prod(shape)) * raw_dtype(dtype).itemsize
    return np.random.default_rng(5).integers(0, 256, size, np.uint8).view(raw_dtype(dtype)).reshape(shape)


@quick
@given(st.data(), floating_dtypes)
def test_a_count_is_what_torch_counts_in_any_layout(data: st.DataObject, dtype: DType) -> None:
    laid = data.draw(layouts(dtype))
    assert count(laid.view, dtype) == counted_by_torch(laid.copy, dtype)


@pytest.mark.parametrize("dtype", SMALL, ids=lambda d: d.name)
def test_a_count_of_every_pattern_is_what_torch_counts(dtype: DType) -> None:
    raw = every_pattern(dtype)
    assert count(raw, dtype) == counted_by_torch(raw, dtype)


@pytest.mark.parametrize("name", ["complex64", "complex128"])
@quick
@given(data=st.data())
def test_complex_elements_that_are_not_finite_are_those_of_torch(name: str, data: st.DataObject) -> None:
    dtype = DTYPES[name]
    raw = data.draw(raws(dtype, min_side=1))
    tensor = torch.view_as_complex(as_torch(raw, dtype))
    got = count(raw, dtype)
    assert (got.nan, got.nonfinite) == (int(tensor.isnan().sum()), int((~tensor.isfinite()).sum()))


@quick
@given(st.data(), floating_dtypes)
def test_the_screen_flags_exactly_what_torch_calls_not_finite(data: st.DataObject, dtype: DType) -> None:
    laid = data.draw(layouts(dtype))
    assert screen(laid.view, dtype).flagged == (not as_torch(laid.copy, dtype).double().isfinite().all())


@pytest.mark.parametrize("dtype", SMALL, ids=lambda d: d.name)
def test_the_screen_of_every_single_pattern_agrees_with_torch(dtype: DType) -> None:
    raw = every_pattern(dtype)[:: 1 if dtype.itemsize == 1 else 37]
    flagged = [screen(raw[at : at + 1], dtype).flagged for at in range(len(raw))]
    assert flagged == (~as_torch(raw, dtype).double().isfinite()).tolist()


@quick
@given(st.data(), floating_dtypes)
def test_the_screen_of_finite_elements_gives_torchs_largest_magnitude(data: st.DataObject, dtype: DType) -> None:
    laid = data.draw(layouts(dtype, finite=True))
    magnitudes = as_torch(laid.copy, dtype).double().abs().flatten().tolist()
    got = screened_measure(screen(laid.view, dtype), dtype, len(magnitudes))
    assert got.absmax == max(magnitudes, default=0.0)


@pytest.mark.parametrize("dtype", FLOATING, ids=lambda d: d.name)
def test_an_empty_tensor_has_no_magnitude_on_the_screen(dtype: DType) -> None:
    raw = patterned(dtype, 0, 3)
    assert screened_measure(screen(raw, dtype), dtype, 0) == Measure(numel=0)


@quick
@given(st.data(), floating_dtypes)
def test_a_measure_from_the_screen_agrees_with_the_count(data: st.DataObject, dtype: DType) -> None:
    laid = data.draw(layouts(dtype, finite=True))
    full = count(laid.view, dtype)
    quickly = screened_measure(screen(laid.view, dtype), dtype, full.numel)
    assert (quickly.numel, quickly.nonfinite, quickly.absmax) == (full.numel, full.nonfinite, full.absmax)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATING, ids=lambda d: d.name)
def test_a_view_of_any_layout_is_counted_like_its_copy(dtype: DType, kind: str) -> None:
    view = lay_out(patterned(dtype) if kind == "zero-dim" else patterned(dtype, 4, 6), dtype, kind)
    assert count(view, dtype) == count(np.array(view, order="C"), dtype)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATING, ids=lambda d: d.name)
def test_a_view_of_any_layout_is_screened_like_its_copy(dtype: DType, kind: str) -> None:
    view = lay_out(patterned(dtype) if kind == "zero-dim" else patterned(dtype, 4, 6), dtype, kind)
    assert screen(view, dtype) == screen(np.array(view, order="C"), dtype)


@pytest.mark.parametrize("dtype", FLOATING, ids=lambda d: d.name)
def test_a_big_endian_view_is_counted_like_its_native_copy(dtype: DType) -> None:
    raw = patterned(dtype, 5, 7)
    assert count(raw.astype(raw.dtype.newbyteorder(">")), dtype) == counted_by_torch(raw, dtype)


def test_an_expanded_tensor_counts_every_repetition() -> None:
    tensor = torch.tensor([1.0, torch.nan, 0.0, -2.0]).expand(1000, 4)
    raw = np.broadcast_to(tensor[0].view(torch.uint32).numpy(), (1000, 4))
    assert count(raw, DTYPES["float32"]) == counted_by_torch(raw, DTYPES["float32"])


def test_a_huge_expanded_tensor_costs_no_more_than_its_distinct_elements() -> None:
    raw = np.broadcast_to(np.array([0x7FC00000], dtype="<u4"), (1 << 20, 1 << 20))
    assert count(raw, DTYPES["float32"]).nan == raw.size


def test_a_tensor_of_several_chunks_is_counted_like_torch() -> None:
    dtype = DTYPES["bfloat16"]
    raw = patterned(dtype, 3, 350_000)
    assert count(raw, dtype) == counted_by_torch(raw, dtype)


@quick
@given(st.data(), floating_dtypes)
def test_chunks_merged_are_the_whole(data: st.DataObject, dtype: DType) -> None:
    raw = data.draw(raws(dtype, min_dims=1, max_dims=1, max_side=12))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=4)))
    pieces = [raw[a:b] for a, b in itertools.pairwise([0, *cuts, len(raw)])]
    assert merge([count(piece, dtype) for piece in pieces]) == count(raw, dtype)


@quick
@given(st.data(), floating_dtypes)
def test_the_order_of_the_pieces_does_not_matter(data: st.DataObject, dtype: DType) -> None:
    pieces = [count(raw, dtype) for raw in data.draw(st.lists(raws(dtype), max_size=4))]
    assert merge(data.draw(st.permutations(pieces))) == merge(pieces)


@quick
@given(st.data(), floating_dtypes)
def test_merging_is_associative(data: st.DataObject, dtype: DType) -> None:
    a, b, c = (count(data.draw(raws(dtype)), dtype) for _ in range(3))
    assert merge([merge([a, b]), c]) == merge([a, merge([b, c])])


@quick
@given(st.data(), floating_dtypes)
def test_the_screens_of_pieces_merged_are_the_screen_of_the_whole(data: st.DataObject, dtype: DType) -> None:
    raw = data.draw(raws(dtype, min_dims=1, max_dims=1, max_side=12))
    at = data.draw(st.integers(0, len(raw)))
    assert screen(raw[:at], dtype).merge(screen(raw[at:], dtype)).flagged == screen(raw, dtype).flagged


def test_merging_with_the_screen_of_nothing_changes_nothing() -> None:
    assert Screen(7, flagged=True).merge(Screen()) == Screen(7, flagged=True)


def test_merging_no_pieces_gives_the_measure_of_nothing() -> None:
    assert merge([]) == counted_by_torch(np.empty(0, dtype="<u4"), DTYPES["float32"])


@quick
@given(st.data(), float_dtypes, st.booleans())
def test_bad_indices_are_those_of_torch_in_row_major_order(
    data: st.DataObject, dtype: DType, nonnegative: bool
) -> None:
    laid = data.draw(layouts(dtype))
    values = as_torch(laid.copy, dtype).double().flatten()
    bad = ~values.isfinite() | ((values < 0) & nonnegative)
    assert bad_indices(laid.view, dtype, nonnegative=nonnegative).tolist() == bad.nonzero().flatten().tolist()


@quick
@given(st.data(), st.sampled_from(COMPLEX))
def test_bad_indices_of_complex_elements_count_elements_not_parts(data: st.DataObject, dtype: DType) -> None:
    laid = data.draw(layouts(dtype))
    bad = ~as_torch(laid.copy, dtype).isfinite().all(dim=-1).flatten()
    assert bad_indices(laid.view, dtype, nonnegative=False).tolist() == bad.nonzero().flatten().tolist()


F32_PATTERNS = [
    *(0x0000_0000, 0x8000_0000, 0x0000_0001, 0x8000_0001, 0x007F_FFFF, 0x0080_0000, 0x3F80_0000, 0xBF80_0000),
    *(0x7F7F_FFFF, 0xFF7F_FFFF, 0x7F80_0000, 0xFF80_0000, 0x7F80_0001, 0xFF80_0001, 0x7FC0_0000, 0xFFFF_FFFF),
]
"""Zeros, subnormal, normal and largest numbers, infinities, signalling and quiet NaN, of both signs."""


@pytest.mark.parametrize("one", F32_PATTERNS, ids=hex)
@pytest.mark.parametrize("other", F32_PATTERNS, ids=hex)
def test_the_screen_of_float32_agrees_with_torch_on_every_kind_of_pair(one: int, other: int) -> None:
    raw = np.array([one, other, one] * 11, dtype="<u4")
    dtype = DTYPES["float32"]
    got, values = screen(raw, dtype), as_torch(raw, dtype).double()
    assert got.flagged == (not values.isfinite().all())
    if not got.flagged:
        assert screened_measure(got, dtype, len(raw)).absmax == float(values.abs().max())
        assert got.signed == bool((values < 0).any())


def test_subnormal_elements_are_screened_exactly_where_the_processor_takes_them_for_zero() -> None:
    raw = np.array([0x0000_0003, 0x8000_0007, 0x0000_0000], dtype="<u4")
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor has no such setting")
    try:
        assert screen(raw, DTYPES["float32"]) == Screen(7, signed=True)
    finally:
        torch.set_flush_denormal(False)


@quick
@given(st.data())
def test_a_dull_piece_has_a_bound_and_others_what_they_have(data: st.DataObject) -> None:
    dtype = DTYPES["float32"]
    raw = data.draw(raws(dtype, min_dims=1))
    exact, bounded = screen(raw, dtype), screen(raw, dtype, dull_below=32768.0)
    assert bounded.flagged == exact.flagged
    if not exact.flagged:
        assert bounded.magnitude >= exact.magnitude
        largest = np.array([bounded.magnitude], np.uint32).view(np.float32)[0]
        assert bounded.magnitude == exact.magnitude or largest < 32768


def test_a_large_value_among_small_ones_is_told_exactly() -> None:
    values = np.full(1000, 0.01, np.float32)
    values[500] = 70_000
    found = screen(values.view(np.uint32), DTYPES["float32"], dull_below=32768.0)
    assert np.array([found.magnitude], np.uint32).view(np.float32)[0] == 70_000


@pytest.mark.parametrize("value", [1e-30, 1e-45, 0.0])
def test_values_whose_squares_vanish_are_told_exactly(value: float) -> None:
    values = np.full(1000, value, np.float32)
    assert screen(values.view(np.uint32), DTYPES["float32"], dull_below=32768.0) == screen(
        values.view(np.uint32), DTYPES["float32"]
    )
