import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strategies import FLOAT8, FLOATING, FLOATS, as_torch, every_pattern, float_dtypes, layouts, quick, raws
from torchmend.facts.dtypes import DTYPES, DType, Kind
from torchmend.measure.bits import (
    component,
    damaged,
    decode,
    decode_any,
    encode,
    largest_finite,
    nonfinite,
    raw_dtype,
)

SMALL = ["float16", "bfloat16", *FLOAT8]
ROUNDED = ["float64", "float32", "float16", "bfloat16"]


@pytest.mark.parametrize("name", SMALL)
def test_decoding_every_pattern_gives_what_torch_gives(name: str) -> None:
    raw = every_pattern(DTYPES[name])
    expected = as_torch(raw, DTYPES[name]).double().numpy()
    np.testing.assert_array_equal(decode(raw, DTYPES[name]), expected)


@pytest.mark.parametrize("name", SMALL)
def test_decoding_keeps_the_sign_of_zero(name: str) -> None:
    raw = every_pattern(DTYPES[name])
    got, expected = decode(raw, DTYPES[name]), as_torch(raw, DTYPES[name]).double().numpy()
    zero = expected == 0
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(expected[zero]))


@quick
@given(st.data(), float_dtypes)
def test_decoding_gives_what_torch_gives_in_any_shape(data: st.DataObject, dtype: DType) -> None:
    raw = data.draw(raws(dtype))
    np.testing.assert_array_equal(decode(raw, dtype), as_torch(raw, dtype).double().numpy())


@pytest.mark.parametrize("name", SMALL)
def test_every_pattern_that_torch_calls_not_finite_is_found(name: str) -> None:
    raw = every_pattern(DTYPES[name])
    expected = ~torch.isfinite(as_torch(raw, DTYPES[name]).double())
    np.testing.assert_array_equal(nonfinite(raw, DTYPES[name]), expected.numpy())


@quick
@given(st.data(), float_dtypes)
def test_random_patterns_are_not_finite_exactly_when_torch_says_so(data: st.DataObject, dtype: DType) -> None:
    raw = data.draw(raws(dtype))
    expected = ~torch.isfinite(as_torch(raw, dtype).double())
    np.testing.assert_array_equal(nonfinite(raw, dtype), expected.numpy())


@pytest.mark.parametrize("dtype", FLOATING, ids=lambda d: d.name)
def test_an_element_is_as_large_as_torch_says(dtype: DType) -> None:
    assert dtype.itemsize == getattr(torch, dtype.name).itemsize


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
def test_the_largest_finite_value_is_torchs(dtype: DType) -> None:
    assert largest_finite(dtype) == torch.finfo(getattr(torch, dtype.name)).max


@pytest.mark.parametrize("name", ROUNDED)
@quick
@given(values=st.lists(st.floats(-6e4, 6e4), max_size=20))
def test_encoding_rounds_like_torch(name: str, values: list[float]) -> None:
    array = np.array(values, dtype=np.float64)
    expected = torch.from_numpy(array).to(getattr(torch, name))
    assert torch.equal(as_torch(encode(array, DTYPES[name]), DTYPES[name]), expected)


@pytest.mark.parametrize("name", ROUNDED)
@quick
@given(data=st.data())
def test_encoding_rounds_halves_between_neighbours_like_torch(name: str, data: st.DataObject) -> None:
    dtype = DTYPES[name]
    low = data.draw(raws(dtype, min_dims=1, max_dims=1, finite=True))
    here = decode(low, dtype).astype(np.float64)
    there = decode(low ^ low.dtype.type(1), dtype).astype(np.float64)
    halves = np.where(np.isfinite(there), here / 2 + there / 2, here)
    expected = torch.from_numpy(halves).to(getattr(torch, name))
    assert torch.equal(as_torch(encode(halves, dtype), dtype), expected)


@quick
@given(st.data(), float_dtypes)
def test_encoding_what_was_decoded_changes_no_value(data: st.DataObject, dtype: DType) -> None:
    raw = data.draw(raws(dtype, finite=True))
    values = decode(raw, dtype).astype(np.float64)
    np.testing.assert_array_equal(decode(encode(values, dtype), dtype), values)


@quick
@given(
    float_dtypes,
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
)
def test_encoding_is_always_finite(dtype: DType, values: list[float]) -> None:
    encoded = encode(np.array(values), dtype)
    assert torch.isfinite(as_torch(encoded, dtype).double()).all()


@quick
@given(st.data(), st.sampled_from(FLOAT8))
def test_encoding_a_float8_gives_a_nearest_value(data: st.DataObject, name: str) -> None:
    dtype = DTYPES[name]
    limit = largest_finite(dtype)
    values = np.array(data.draw(st.lists(st.floats(-limit, limit), min_size=1, max_size=20)))
    table = as_torch(every_pattern(dtype), dtype).double().numpy()
    table = table[np.isfinite(table)]
    nearest = np.abs(values[:, None] - table).min(axis=1)
    np.testing.assert_array_equal(np.abs(decode(encode(values, dtype), dtype) - values), nearest)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
def test_encoding_zero_gives_zero_where_the_type_has_one(dtype: DType) -> None:
    zeros = np.zeros(3)
    smallest = as_torch(np.zeros(3, dtype=raw_dtype(dtype)), dtype).double()
    assert torch.equal(as_torch(encode(zeros, dtype), dtype).double(), smallest)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
def test_encoding_keeps_the_shape_of_a_zero_dimensional_array(dtype: DType) -> None:
    assert encode(np.array(1.0), dtype).shape == ()


@pytest.mark.parametrize("name", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"])
def test_integers_become_the_numbers_that_torch_makes_of_them(name: str) -> None:
    values = torch.tensor([0, 1]) if name == "bool" else torch.arange(0, 120, 7)
    tensor = values.to(getattr(torch, name))
    if name.startswith("int"):
        tensor = -tensor
    raw = tensor.view(getattr(torch, f"uint{8 * tensor.itemsize}")).numpy()
    np.testing.assert_array_equal(decode_any(raw, DTYPES[name]), tensor.double().numpy())


@pytest.mark.parametrize("dtype", FLOATING, ids=lambda d: d.name)
def test_raw_integers_are_as_wide_as_one_part(dtype: DType) -> None:
    assert raw_dtype(dtype).itemsize == component(dtype).itemsize


@quick
@given(st.data(), float_dtypes)
def test_damage_in_a_variance_is_what_torch_calls_not_finite_or_negative(data: st.DataObject, dtype: DType) -> None:
    raw = data.draw(layouts(dtype)).copy
    values = as_torch(raw, dtype).double()
    expected = ~torch.isfinite(values) | (values < 0)
    np.testing.assert_array_equal(damaged(raw, dtype, nonnegative=True), expected.numpy())


@quick
@given(st.data(), st.sampled_from([d for d in FLOATING if d.kind is Kind.COMPLEX]))
def test_a_complex_element_is_damaged_if_either_part_is(data: st.DataObject, dtype: DType) -> None:
    raw = data.draw(raws(dtype))
    expected = ~torch.isfinite(as_torch(raw, dtype)).all(dim=-1)
    np.testing.assert_array_equal(damaged(raw, dtype, nonnegative=False), expected.numpy())


@pytest.mark.parametrize("name", ["int64", "uint8", "bool"])
def test_integers_are_never_damaged(name: str) -> None:
    raw = np.full(4, np.iinfo(raw_dtype(DTYPES[name])).max, dtype=raw_dtype(DTYPES[name]))
    assert not damaged(raw, DTYPES[name], nonnegative=True).any()
