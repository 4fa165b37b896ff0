import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import FLOATING, as_torch, floating_dtypes, layouts, quick
from torchmend.facts.dtypes import DTYPES, DType, Kind
from torchmend.facts.findings import Measure
from torchmend.measure import scan as scan_module
from torchmend.measure.bits import Raw, raw_dtype
from torchmend.measure.chunks import address_of
from torchmend.measure.scan import Request, Stretch, measure, scan
from torchmend.measure.tally import count
from torchmend.measure.workers import Machine

F32 = DTYPES["float32"]


def floats(*values: float, dtype: str = "<f4") -> Raw:
    array = np.array(values, dtype=dtype)
    return array.view(f"u{array.itemsize}")


def noise(dtype: DType, *shape: int) -> Raw:
    shape = (*shape, 2) if dtype.kind is Kind.COMPLEX else shape
    size = int(np.prod(shape)) * raw_dtype(dtype).itemsize
    return np.random.default_rng(3).integers(0, 256, size, np.uint8).view(raw_dtype(dtype)).reshape(shape)


def only(request: Request, threads: int = 1) -> Measure:
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
    monkeypatch.setattr(scan_module, "PIECE_BYTES", 64)
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
    monkeypatch.setattr(scan_module, "CHANNEL_LIMIT", 3)
    assert only(Request(key=0, raw=floats(1, 2, 3, np.nan), dtype=F32, channels=True)).bad_channels is None


def test_bad_channels_of_a_big_endian_statistic_are_found() -> None:
    raw = floats(1, np.nan, 2, dtype=">f4").view(">u4")
    assert only(Request(key=0, raw=raw, dtype=F32, channels=True)).bad_channels == (1,)


@pytest.mark.parametrize("threads", [1, 2])
def test_progress_adds_up_to_the_bytes_of_the_tensors(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "PIECE_BYTES", 256)
    requests = [Request(key=at, raw=noise(F32, 10, at), dtype=F32) for at in range(30)]
    told: list[int] = []
    measure(requests, threads=threads, progress=told.append)
    assert sum(told) == sum(request.raw.nbytes for request in requests)


def test_more_tensors_than_fit_a_bundle_are_all_measured() -> None:
    requests = [Request(key=at, raw=floats(at), dtype=F32) for at in range(600)]
    assert [m.absmax for m in measure(requests, threads=2).values()] == [float(at) for at in range(600)]


def test_an_error_in_the_work_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(raw: Raw, dtype: DType, **_: float) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(scan_module, "screen", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        measure([Request(key=0, raw=floats(1), dtype=F32)], threads=2)


def as_bytes(raw: Raw) -> np.ndarray:
    return raw.reshape(-1).view(np.uint8)


@pytest.mark.parametrize("threads", [1, 2])
def test_stretches_are_summed_beside_the_measuring(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "PIECE_BYTES", 256)
    raws = [noise(F32, 50, at) for at in range(1, 9)]
    requests = [Request(key=at, raw=raw, dtype=F32) for at, raw in enumerate(raws)]
    stretches = [Stretch(key=at, data=as_bytes(raw)) for at, raw in enumerate(raws)]
    found = scan(requests, stretches, threads=threads)
    assert found.sums == {at: zlib.crc32(raw.tobytes()) for at, raw in enumerate(raws)}
    assert found.measures == measure(requests, threads=threads)


def test_a_stretch_without_bytes_has_the_sum_of_nothing() -> None:
    assert scan([], [Stretch(key=0, data=np.empty(0, np.uint8))]).sums == {0: zlib.crc32(b"")}


def test_memory_is_walked_once_by_address_whatever_the_order_of_what_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scan_module, "PIECE_BYTES", 64)
    memory = np.ones(200, dtype="<f4").view("<u4")
    requests = [Request(key=at, raw=memory[at * 50 : at * 50 + 50], dtype=F32) for at in (2, 0, 3, 1)]
    asked: list[int] = []
    scan(requests, [Stretch(key=0, data=as_bytes(memory))], threads=1, ahead=lambda at, _: asked.append(at))
    assert asked == sorted(asked)


def test_what_will_be_looked_at_is_told_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    raws = [noise(F32, 64) for _ in range(3)]
    asked: list[tuple[int, int]] = []
    scan(
        [Request(key=at, raw=raw, dtype=F32) for at, raw in enumerate(raws)],
        threads=1,
        ahead=lambda address, nbytes: asked.append((address, nbytes)),
    )
    for raw in raws:
        begin = address_of(raw)
        assert any(start <= begin and begin + raw.nbytes <= start + nbytes for start, nbytes in asked)


def test_a_tensor_that_begins_with_equal_elements_is_counted_in_full_if_asked_for() -> None:
    raw = floats(*[0.5] * 20)
    assert only(Request(key=0, raw=raw, dtype=F32, full_if_repeating=True)).minimum == 0.5
    assert only(Request(key=0, raw=raw, dtype=F32)).minimum is None


@pytest.mark.parametrize("values", [[0.0] * 20, [0.5] * 3 + [0.25] * 20])
def test_zeros_or_different_elements_at_the_beginning_are_only_screened(values: list[float]) -> None:
    assert only(Request(key=0, raw=floats(*values), dtype=F32, full_if_repeating=True)).minimum is None


def test_only_the_beginning_of_a_tensor_of_several_pieces_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "PIECE_BYTES", 64)
    raw = floats(1.0, *[0.5] * 200)
    assert only(Request(key=0, raw=raw, dtype=F32, full_if_repeating=True)).minimum is None


def test_the_number_of_threads_follows_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    pool = scan_module.ThreadPoolExecutor
    monkeypatch.setattr(scan_module, "ThreadPoolExecutor", lambda threads: used.append(threads) or pool(threads))
    monkeypatch.setattr(scan_module, "this_machine", lambda: Machine(cores=9, online=9, busy=2.0))
    measure([Request(key=0, raw=floats(1), dtype=F32)])
    measure([Request(key=0, raw=floats(1), dtype=F32)], threads=3)
    assert set(used[: len(used) // 2]) == {7}
    assert set(used[len(used) // 2 :]) == {3}
