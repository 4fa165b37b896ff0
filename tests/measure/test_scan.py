import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import FLOATING, as_torch, floating_dtypes, layouts, quick
from torchmend.facts.dtypes import DTYPES, DType, Kind
from torchmend.measure import scan
from torchmend.measure.bits import Raw, raw_dtype
from torchmend.measure.scan import Request, available_cores, measure
from torchmend.measure.tally import count

F32 = DTYPES["float32"]


def floats(*values: float, dtype: str = "<f4") -> Raw:
    array = np.array(values, dtype=dtype)
    return array.view(f"u{array.itemsize}")


def noise(dtype: DType, *shape: int) -> Raw:
    shape = (*shape, 2) if dtype.kind is Kind.COMPLEX else shape
    size = int(np.prod(shape)) * raw_dtype(dtype).itemsize
    return np.random.default_rng(3).integers(0, 256, size, np.uint8).view(raw_dtype(dtype)).reshape(shape)


def only(request: Request, threads: int = 1) -> scan.Measure:
    return measure([request], threads=threads)[request.key]


@quick
@given(st.data(), st.lists(floating_dtypes, max_size=5))
def test_one_thread_and_two_measure_the_same(data: st.DataObject, dtypes: list[DType]) -> None:
    requests = [
        Request(key=at, raw=data.draw(layouts(dtype)).view, dtype=dtype, full=at % 2 == 0, channels=True)
        for at, dtype in enumerate(dtypes)
    ]
    assert measure(requests, threads=1) == measure(requests, threads=2)


@pytest.mark.parametrize("dtype", FLOATING, ids=lambda d: d.name)
def test_a_tensor_cut_into_many_pieces_is_measured_like_the_whole(
    dtype: DType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "PIECE_BYTES", 64)
    raw = noise(dtype, 40, 9)
    assert only(Request(key="w", raw=raw, dtype=dtype, full=True), threads=2) == count(raw, dtype)


@quick
@given(st.data(), floating_dtypes)
def test_asked_for_a_full_count_it_gives_the_count(data: st.DataObject, dtype: DType) -> None:
    view = data.draw(layouts(dtype)).view
    assert only(Request(key=0, raw=view, dtype=dtype, full=True)) == count(view, dtype)


@quick
@given(st.data(), floating_dtypes)
def test_what_is_not_finite_is_counted_unasked(data: st.DataObject, dtype: DType) -> None:
    view = data.draw(layouts(dtype)).view
    assert only(Request(key=0, raw=view, dtype=dtype)).nonfinite == count(view, dtype).nonfinite


@quick
@given(st.data(), floating_dtypes)
def test_the_number_of_elements_is_that_of_torch(data: st.DataObject, dtype: DType) -> None:
    laid = data.draw(layouts(dtype))
    parts = 2 if dtype.kind is Kind.COMPLEX else 1
    expected = as_torch(laid.copy, dtype).numel() // parts
    assert only(Request(key=0, raw=laid.view, dtype=dtype)).numel == expected


def test_a_healthy_tensor_is_only_screened() -> None:
    assert only(Request(key=0, raw=floats(1.0, -2.0), dtype=F32)).zeros is None


def test_nothing_to_measure_gives_no_measures() -> None:
    assert measure([]) == {}


def test_bad_channels_are_the_indices_that_are_not_finite() -> None:
    request = Request(key=0, raw=floats(1, np.nan, -3, np.inf), dtype=F32, channels=True)
    assert only(request).bad_channels == (1, 3)


def test_bad_channels_of_a_variance_include_the_negative_ones() -> None:
    raw = floats(1, np.nan, -3, -0.0)
    request = Request(key=0, raw=raw, dtype=F32, full=True, channels=True, nonnegative=True)
    assert only(request).bad_channels == (1, 2)


def test_a_healthy_statistic_that_is_counted_in_full_has_no_bad_channels() -> None:
    assert only(Request(key=0, raw=floats(1, 2), dtype=F32, full=True, channels=True)).bad_channels == ()


def test_channels_are_not_listed_unasked() -> None:
    assert only(Request(key=0, raw=floats(np.nan), dtype=F32)).bad_channels is None


def test_channels_of_a_tensor_over_the_limit_are_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "CHANNEL_LIMIT", 3)
    assert only(Request(key=0, raw=floats(1, 2, 3, np.nan), dtype=F32, channels=True)).bad_channels is None


def test_bad_channels_of_a_big_endian_statistic_are_found() -> None:
    raw = floats(1, np.nan, 2, dtype=">f4").view(">u4")
    assert only(Request(key=0, raw=raw, dtype=F32, channels=True)).bad_channels == (1,)


@pytest.mark.parametrize("threads", [1, 2])
def test_progress_adds_up_to_the_bytes_of_the_tensors(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "PIECE_BYTES", 256)
    requests = [Request(key=at, raw=noise(F32, 10, at), dtype=F32) for at in range(30)]
    told: list[int] = []
    measure(requests, threads=threads, progress=told.append)
    assert sum(told) == sum(request.raw.nbytes for request in requests)


def test_more_tensors_than_fit_a_bundle_are_all_measured() -> None:
    requests = [Request(key=at, raw=floats(at), dtype=F32) for at in range(600)]
    assert [m.absmax for m in measure(requests, threads=2).values()] == [float(at) for at in range(600)]


def test_an_error_in_the_work_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(raw: Raw, dtype: DType) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(scan, "screen", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        measure([Request(key=0, raw=floats(1), dtype=F32)], threads=2)


def test_there_is_at_least_one_core() -> None:
    assert available_cores() >= 1
