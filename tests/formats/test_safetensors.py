import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from strategies import quick
from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.formats.contents import Contents
from torchmend.formats.registry import read_contents

NAMES = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu",
         "float8_e4m3fnuz", "float8_e5m2fnuz", "complex64", "int8", "int16", "int32", "int64",
         "uint8", "uint16", "uint32", "uint64"]  # fmt: skip


def noise(name: str, *shape: int) -> torch.Tensor:
    dtype = getattr(torch, name)
    data = np.random.default_rng(2).integers(0, 256, int(np.prod(shape)) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(data).view(dtype).reshape(shape)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def saved(tmp_path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Contents:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(tensors, path, metadata)
    return read_contents(path)


def hand_made(tmp_path: Path, header: object, data: bytes = bytes(16)) -> Contents:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.unlink(missing_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return read_contents(path)


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes


def described(contents: Contents) -> dict[str, tuple[Any, ...]]:
    return {
        t.name: (
            t.container, t.dtype.name, t.shape, t.strides if t.numel else None, t.absent, t.misfit(),
            t.raw(contents.files).tobytes(),
        )
        for t in contents.tensors
    }  # fmt: skip


def expected(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[Any, ...]]:
    return {
        name: (
            "",
            str(t.dtype).removeprefix("torch."),
            tuple(t.shape),
            t.stride() if t.numel() else None,
            "",
            "",
            bits(t),
        )
        for name, t in tensors.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_element_type_is_read_as_safetensors_saved_it(tmp_path: Path, name: str) -> None:
    tensors = {"x": noise(name, 3, 4)}
    assert described(saved(tmp_path, tensors)) == expected(tensors)


def test_booleans_are_read_as_safetensors_saved_them(tmp_path: Path) -> None:
    tensors = {"x": torch.tensor([True, False, True])}
    assert described(saved(tmp_path, tensors)) == expected(tensors)


def test_float4_is_read_as_a_packed_type(tmp_path: Path) -> None:
    (got,) = saved(tmp_path, {"x": torch.zeros(3, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}).tensors
    assert (got.dtype.name, got.absent, got.misfit()) == ("float4_e2m1fn_x2", "", "")


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3, 4)])
def test_a_tensor_of_any_shape_is_read_as_safetensors_saved_it(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tensors = {"x": torch.randn(shape, generator=torch.Generator().manual_seed(1))}
    assert described(saved(tmp_path, tensors)) == expected(tensors)


def test_a_state_dict_is_read_as_safetensors_saved_it(tmp_path: Path) -> None:
    state = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()
    assert described(saved(tmp_path, dict(state))) == expected(dict(state))


def test_tensors_stand_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    contents = saved(tmp_path, {"b": torch.ones(2), "a": torch.ones(2), "c": torch.ones(2, dtype=torch.float64)})
    starts = [tensor.extent.start for tensor in contents.tensors if tensor.extent]
    assert starts == sorted(starts)


def test_metadata_is_kept_as_texts(tmp_path: Path) -> None:
    contents = saved(tmp_path, {"x": torch.ones(1)}, {"format": "pt", "step": "7"})
    assert {s.path: s.value for s in contents.scalars} == {("format",): "pt", ("step",): "7"}


def test_the_file_says_its_format(tmp_path: Path) -> None:
    assert saved(tmp_path, {}).format == "safetensors"


def test_a_file_of_no_tensors_is_read(tmp_path: Path) -> None:
    assert saved(tmp_path, {}).tensors == ()


def test_an_element_type_of_the_future_is_absent(tmp_path: Path) -> None:
    (got,) = hand_made(tmp_path, {"x": entry(dtype="F6_E2M3")}).tensors
    assert "F6_E2M3 is not known" in got.absent


def test_a_file_that_is_cut_off_anywhere_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    whole = safetensors.torch.save({"x": torch.ones(5), "y": torch.zeros(3)})
    for cut in range(10, len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(FileError, match="cut off") as caught:
            read_contents(path)
        assert caught.value.code is Code.TRUNCATED


@pytest.mark.parametrize("cut", range(1, 10))
def test_a_file_cut_off_before_its_header_is_no_checkpoint(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(safetensors.torch.save({"x": torch.ones(5)})[:cut])
    with pytest.raises(FileError, match="No checkpoint in a format that is known"):
        read_contents(path)


def test_a_header_that_claims_more_than_the_file_has_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 99_999_999) + b"{}      ")
    with pytest.raises(FileError, match="announces a header of 99,999,999 bytes"):
        read_contents(path)


def test_a_header_beyond_the_limit_of_the_format_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}      ")
    with pytest.raises(FileError, match="No checkpoint in a format that is known"):
        read_contents(path)


@pytest.mark.parametrize(
    "header",
    [b"{", b"{]", b'{"a":}', b"{\xff}", b"{" * 50_000, b'{"x":' * 50_000, b'{"x": ' + b"9" * 5000 + b"}"],
    ids=["open", "mixed", "no value", "no UTF-8", "braces", "deep", "long number"],
)
def test_a_header_that_is_no_json_is_malformed(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(FileError, match="its header is no JSON"):
        hand_made(tmp_path, header)


@pytest.mark.parametrize(
    "broken",
    [
        None, 5, "x", [], [1, 2], {}, {"dtype": "F32"}, entry(shape=None), entry(shape=4), entry(shape="4"),
        entry(shape=["4"]), entry(shape=[-1]), entry(shape=[1.5]), entry(data_offsets=None), entry(data_offsets=[0]),
        entry(data_offsets=[0, 8, 16]), entry(data_offsets=[16, 0]), entry(data_offsets=[-4, 12]),
        entry(data_offsets=["0", "16"]), entry(dtype=[]), entry(dtype={}),
        entry(shape={"a": 1}), entry(shape=[[4]]),
    ],
    ids=repr,
)  # fmt: skip
def test_a_malformed_entry_is_a_file_error(tmp_path: Path, broken: object) -> None:
    with pytest.raises(FileError, match="the entry of x lacks a dtype, a shape or data_offsets"):
        hand_made(tmp_path, {"x": broken})


@pytest.mark.parametrize("end", [17, 2**31, 2**62])
def test_an_entry_that_claims_more_than_the_file_has_is_truncated(tmp_path: Path, end: int) -> None:
    with pytest.raises(FileError, match="announces x up to byte"):
        hand_made(tmp_path, {"x": entry(data_offsets=[0, end])})


@pytest.mark.parametrize("shape", [[5], [2, 3], [2**62], [2**40, 2**40], [1] * 70, [2**62] * 300], ids=len)
def test_a_shape_that_does_not_fit_its_bytes_is_a_misfit(tmp_path: Path, shape: list[int]) -> None:
    (got,) = hand_made(tmp_path, {"x": entry(shape=shape)}).tensors
    assert got.misfit() != ""


def test_an_empty_tensor_of_a_nonsensical_shape_is_a_misfit_or_can_be_looked_at(tmp_path: Path) -> None:
    contents = hand_made(tmp_path, {"x": entry(shape=[0, 2**62], data_offsets=[0, 0])})
    (got,) = contents.tensors
    assert got.misfit() or got.raw(contents.files).size == 0


@pytest.mark.parametrize(
    "changes", [{"data_offsets": [0, 10**4300 - 1]}, {"shape": [10**4299] * 2}], ids=["end", "shape"]
)
def test_a_number_too_long_to_print_is_a_file_error_or_a_misfit(tmp_path: Path, changes: dict[str, Any]) -> None:
    try:
        (got,) = hand_made(tmp_path, {"x": entry(**changes)}).tensors
    except FileError:
        return
    assert got.misfit()


@pytest.mark.parametrize("metadata", [None, 5, [], "x", {}])
def test_metadata_of_another_kind_is_left_out(tmp_path: Path, metadata: object) -> None:
    assert hand_made(tmp_path, {"__metadata__": metadata, "x": entry()}).scalars == ()


whole = st.integers(-2, 20) | st.sampled_from([2**31, 2**63, 2**70])
values = st.recursive(
    st.none() | st.booleans() | whole | st.floats() | st.sampled_from(["F32", "U8", "C64", "F4", "x", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)
entries = values | st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F64", "U8", "BF16", "C64", "F4"]) | values,
        "shape": st.lists(whole, max_size=4) | values,
        "data_offsets": st.tuples(st.integers(0, 16), st.integers(0, 16)).map(sorted)
        | st.lists(whole, max_size=3)
        | values,
    },
)


@quick
@given(st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), entries, max_size=3))
def test_any_header_is_read_or_a_file_error(tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any]) -> None:
    try:
        contents = hand_made(tmp_path_factory.mktemp("header"), header)
    except FileError:
        return
    assert {tensor.name for tensor in contents.tensors} == set(header) - {"__metadata__"}


@quick
@given(
    st.lists(st.integers(0, 5) | st.sampled_from([2**31, 2**61, 2**62]), max_size=5),
    st.sampled_from(["F32", "U8", "C64"]),
)
def test_a_tensor_of_any_shape_is_a_misfit_or_can_be_looked_at(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], dtype: str
) -> None:
    contents = hand_made(tmp_path_factory.mktemp("shape"), {"x": entry(shape=shape, dtype=dtype)})
    (got,) = contents.tensors
    parts = 2 if dtype == "C64" else 1
    assert got.misfit() or got.raw(contents.files).size == parts * got.numel


@quick
@given(st.binary(max_size=120))
def test_any_bytes_as_a_header_are_read_or_a_file_error(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    try:
        hand_made(tmp_path_factory.mktemp("bytes"), b"{" + text)
    except FileError:
        pass
