"""NumPy archives. numpy itself is the oracle."""

import io
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoints import called
from strategies import quick
from torchmend.doctor.fixing import fix_file
from torchmend.doctor.undoing import unfix_file
from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.formats import archives, inflating, zips
from torchmend.formats.contents import Contents
from torchmend.formats.registry import read_contents

Read = Callable[[bytes], Contents]


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Read]:
    """Write bytes to a file and read its contents; files are closed at the end."""
    opened: list[Contents] = []

    def write_and_read(data: bytes) -> Contents:
        path = tmp_path / f"{len(opened)}.npz"
        path.write_bytes(data)
        opened.append(read_contents(path))
        return opened[-1]

    yield write_and_read
    for contents in opened:
        contents.close()


def saved(compressed: bool = False, **arrays: Any) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as written:
        for name, data in members.items():
            written.writestr(zipfile.ZipInfo(name), data, compression)
    return stream.getvalue()


def npy(header: str, elements: bytes = b"", version: int = 1) -> bytes:
    text = header.encode("utf-8" if version == 3 else "latin-1")
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + elements


def arrays(contents: Contents) -> dict[str, np.ndarray]:
    """Give name -> the elements as numbers, in the machine's byte order."""
    found = {}
    for t in contents.tensors:
        assert (t.absent or t.misfit()) == ""
        raw = t.raw(contents.files)
        raw = raw.astype(raw.dtype.newbyteorder("="))
        found[t.name] = raw.view(t.dtype.name).reshape(t.shape)
    return found


def assert_same(contents: Contents, expected: dict[str, np.ndarray]) -> None:
    found = arrays(contents)
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=False)
        assert found[name].dtype == array.dtype.newbyteorder("=")


# What numpy saved is what is read


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1", "c8", "c16"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_type_of_number_is_read_in_both_byte_orders(read: Read, kind: str, order: str) -> None:
    array = np.arange(12).reshape(3, 4).astype(order + kind)
    contents = read(saved(x=array))
    assert contents.format == "npz"
    assert_same(contents, {"x": array})


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0, 3), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_every_shape_is_read_in_both_layouts(read: Read, shape: tuple[int, ...], layout: str) -> None:
    array = np.asarray(np.arange(np.prod(shape, dtype=int), dtype="f4").reshape(shape), order=layout)
    assert_same(read(saved(x=array)), {"x": array})


def test_arrays_stand_in_the_order_of_the_archive_under_their_names(read: Read) -> None:
    named = {
        "layer.weight": np.ones((2, 3), "f4"),
        "layer.bias": np.zeros(2, "f4"),
        "params/Dense_0/kernel": np.ones(1),
    }
    assert_same(read(saved(**named)), named)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_version_of_the_header_is_read(read: Read, version: int) -> None:
    member = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n", np.ones(2, "f4").tobytes(), version)
    assert_same(read(archive({"x.npy": member})), {"x": np.ones(2, "f4")})


def test_a_header_that_python_2_wrote_is_read(read: Read) -> None:
    member = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1L, 2L), }\n", np.ones(2, "f4").tobytes())
    assert_same(read(archive({"x.npy": member})), {"x": np.ones((1, 2), "f4")})


def test_checksums_are_records(read: Read) -> None:
    contents = read(saved(a=np.ones(3), b=np.ones(4)))
    assert [record.name for record in contents.records] == ["a.npy", "b.npy"]
    assert not contents.oddities


def test_texts_and_dates_hold_no_numbers_and_are_passed_over(read: Read) -> None:
    data = saved(names=np.array(["a", "b"]), when=np.array(["2020-01-01"], "M8[D]"), raw=np.array([b"a"]), x=np.ones(2))
    assert_same(read(data), {"x": np.ones(2)})


def test_members_that_are_no_arrays_are_passed_over(read: Read) -> None:
    stream = io.BytesIO(saved(x=np.ones(2)))
    with zipfile.ZipFile(stream, "a") as written:
        written.writestr("README.txt", "hello")
    assert_same(read(stream.getvalue()), {"x": np.ones(2)})


@quick
@given(st.lists(st.tuples(st.lists(st.integers(0, 3), max_size=3), st.sampled_from(["<f4", ">f8", "<i2"])), max_size=4))
def test_any_archive_is_read(tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[list[int], str]]) -> None:
    named = {f"a{at}": np.ones(shape, kind) for at, (shape, kind) in enumerate(kinds)} or {"a": np.ones(1)}
    path = tmp_path_factory.mktemp("any") / "model.npz"
    np.savez(path, **named)
    contents = read_contents(path)
    assert_same(contents, named)
    contents.close()


# What cannot be looked at


def test_arrays_of_objects_are_not_looked_at(read: Read) -> None:
    (tensor,) = read(saved(x=np.array([{"a": 1}], dtype=object))).tensors
    assert tensor.absent == "its elements are pickled Python objects"


@pytest.mark.parametrize("compressed", [False, True])
def test_what_an_array_of_objects_wants_to_call_is_told_and_not_done(
    read: Read, tmp_path: Path, compressed: bool
) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    assert "posix.mkdir" in called(read(saved(compressed, x=np.array([Hostile()], dtype=object))))
    assert not (tmp_path / "ran").exists()


def test_records_of_several_fields_are_not_looked_at(read: Read) -> None:
    (tensor,) = read(saved(x=np.zeros(3, [("a", "f4"), ("b", "i4")]))).tensors
    assert tensor.absent == "its elements are records of several fields"


def test_types_that_torch_does_not_have_are_not_looked_at(read: Read) -> None:
    (tensor,) = read(saved(x=np.zeros(3, np.longdouble))).tensors
    assert "is not known" in tensor.absent


@pytest.mark.parametrize("order", ["C", "F"])
def test_compressed_arrays_are_inflated(read: Read, order: str) -> None:
    named = {"x": np.asarray(np.arange(12.0).reshape(3, 4), order=order), "empty": np.ones((0, 2)), "n": np.array(7)}
    contents = read(saved(compressed=True, **named))
    assert_same(contents, named)
    assert {tensor.packed for tensor in contents.tensors} == {"x.npy", "empty.npy", "n.npy"}
    assert not contents.oddities


def test_a_compressed_array_with_a_wrong_checksum_is_told(read: Read) -> None:
    data = saved(compressed=True, x=np.arange(100.0))
    with zipfile.ZipFile(io.BytesIO(data)) as written:
        crc = struct.pack("<I", written.getinfo("x.npy").CRC)
    assert [oddity.code for oddity in read(data.replace(crc, b"abcd")).oddities] == [Code.WRONG_CHECKSUM]


def test_a_compressed_array_beyond_the_limit_is_not_looked_at(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflating, "LEAST_LIMIT", 1000)
    (tensor,) = read(saved(compressed=True, x=np.zeros(1_000_000))).tensors
    assert "would inflate to more than" in tensor.absent


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_array_is_repaired_and_loaded_by_numpy(tmp_path: Path, compressed: bool) -> None:
    mean = np.array([0.5, np.nan, 0.75], np.float32)
    arrays = {"b.running_mean": mean, "b.running_var": np.ones(3, np.float32), "w": np.arange(4, dtype=">f8")}
    (tmp_path / "run.npz").write_bytes(saved(compressed, **arrays))
    output = fix_file(tmp_path / "run.npz").output
    with np.load(output) as loaded:
        assert np.isfinite(loaded["b.running_mean"]).all()
        assert loaded["b.running_mean"][[0, 2]].tolist() == [0.5, 0.75]
        assert loaded["w"].tobytes() == arrays["w"].tobytes()
    assert unfix_file(output).output.read_bytes() == (tmp_path / "run.npz").read_bytes()


# Archives that lie


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (b"", "does not start like one"),
        (b"hello, this is a text", "does not start like one"),
        (npy("{}", version=4), "does not start like one"),
        (npy("{}"), "cannot be understood"),
        (npy("[1, 2]"), "cannot be understood"),
        (npy("__import__('os').getcwd()"), "cannot be understood"),
        (npy("(" * 5000), "cannot be understood"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': True}"), "cannot be understood"),
        (npy("{'descr': '<f4', 'descr': '<f8', 'shape': (2,)}"), "cannot be understood"),
        (npy("{'descr': True, 'fortran_order': False, 'shape': (2,)}"), "cannot be understood"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 99 + ")}"), "claims 99 dimensions"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",)}"), "not whole numbers"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), "cannot be understood"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': 3}"), "cannot be understood"),
        (npy(" " * 20_000), "its header claims 20,000 bytes"),
        (npy("{}", version=2)[:10] + b"\xff\xff", "its header claims"),
    ],
)
def test_a_member_that_is_no_array_is_told(read: Read, member: bytes, reason: str) -> None:
    (tensor,) = read(archive({"x.npy": member})).tensors
    assert reason in tensor.absent


def test_an_array_that_is_cut_off_is_a_misfit(read: Read) -> None:
    member = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9,), }", np.ones(2, "f4").tobytes())
    (tensor,) = read(archive({"x.npy": member})).tensors
    assert "36 bytes of a storage that has 8" in tensor.misfit()


def test_a_claim_of_an_exabyte_is_a_misfit(read: Read) -> None:
    (tensor,) = read(
        archive({"x.npy": npy(f"{{'descr': '<f8', 'fortran_order': True, 'shape': ({1 << 60},)}}")})
    ).tensors
    assert "elements" in tensor.misfit()


def test_bytes_behind_an_array_are_told(read: Read) -> None:
    member = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", bytes(100_000))
    (oddity,) = read(archive({"x.npy": member})).oddities
    assert (oddity.code, oddity.detail) == (Code.UNREFERENCED, "99,992 bytes: 99,992 lie between the pieces")


def test_two_arrays_of_one_name_are_told(read: Read) -> None:
    stream = io.BytesIO()
    member = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", bytes(4))
    with zipfile.ZipFile(stream, "w") as written:
        written.writestr("x.npy", member)
        with pytest.warns(UserWarning, match="Duplicate name"):
            written.writestr("x.npy", member)
    assert [oddity.code for oddity in read(stream.getvalue()).oddities] == [Code.DUPLICATE_NAMES]


# Which archives are of NumPy


def test_an_archive_with_a_pickle_of_torch_is_one_of_torch(tmp_path: Path) -> None:
    import torch

    torch.save({"x": torch.ones(1)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as written:
        written.writestr("extra.npy", b"")
    assert read_contents(tmp_path / "a.pt").format == "torch zip"


def test_an_archive_of_neither_kind_is_no_checkpoint(read: Read) -> None:
    with pytest.raises(FileError, match=r"none of them is a data\.pkl or an array") as caught:
        read(archive({"word/document.xml": b""}))
    assert caught.value.code is Code.NOT_A_CHECKPOINT


def test_the_members_are_listed_once(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    listings: list[object] = []
    monkeypatch.setattr(archives, "read_members", lambda file: (listings.append(file), zips.read_members(file))[1])
    read(saved(x=np.ones(2)))
    assert len(listings) == 1


@quick
@given(
    st.one_of(st.text(max_size=60), st.from_regex(r"\{('(descr|shape|fortran_order)': ('<f4'|\(\d,\)|False),? ?)+\}"))
)
def test_any_header_is_read_as_numpy_reads_it_or_told(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("any") / "model.npz"
    path.write_bytes(archive({"x.npy": npy(text, bytes(40), version=3)}))
    contents = read_contents(path)
    (tensor,) = contents.tensors
    try:
        with np.load(path) as loaded:
            shape = loaded["x"].shape
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        shape = None
    if not tensor.absent and not tensor.misfit():
        assert tensor.shape == shape
    contents.close()
