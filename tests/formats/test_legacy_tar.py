"""Checkpoints in the tar format of the first releases of torch, written by hand; torch, which reads them, judges."""

import io
import struct
import tarfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from checkpoints import called
from old_files import KINDS, Key, archive, pickled, storages, tar_of, tensors
from strategies import quick
from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.formats.contents import Contents
from torchmend.formats.registry import read_contents

Read = Callable[[bytes], Contents]


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Read]:
    """Write bytes to a file and read its contents; files are closed at the end."""
    opened: list[Contents] = []

    def write_and_read(data: bytes) -> Contents:
        path = tmp_path / f"{len(opened)}.pth"
        path.write_bytes(data)
        opened.append(read_contents(path))
        return opened[-1]

    yield write_and_read
    for contents in opened:
        contents.close()


def loaded(data: bytes, folder: Path) -> Any:
    path = folder / "oracle.pth"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tar archives are extracted without a filter
        return torch.load(path, weights_only=False)


def named(contents: Contents) -> dict[str, tuple[tuple[int, ...], bytes]]:
    assert not any(t.absent or t.misfit() for t in contents.tensors)
    return {
        ".".join(filter(None, (t.container, t.name))): (t.shape, t.raw(contents.files).tobytes())
        for t in contents.tensors
    }


def expected(state: dict[str, torch.Tensor]) -> dict[str, tuple[tuple[int, ...], bytes]]:
    return {name: (tuple(t.shape), t.contiguous().numpy().tobytes()) for name, t in state.items()}


TEN = np.arange(10, dtype="<f4")


def with_views(entry: tuple[int, int, tuple[int, ...], tuple[int, ...], int], *views: tuple[int, ...]) -> bytes:
    return archive(
        {"pickle": pickled({"x": Key(entry[0])}), "tensors": tensors([entry]), "storages": storages({1: TEN}, views)}
    )


def whole() -> dict[str, bytes]:
    entry = tensors([(5, 1, (10,), (1,), 0)])
    return {"pickle": pickled({"x": Key(5)}), "tensors": entry, "storages": storages({1: TEN})}


# What torch reads


def test_tensors_are_read_as_torch_loads_them(read: Read, tmp_path: Path) -> None:
    data = tar_of({"w": np.arange(6, dtype="<f4").reshape(2, 3), "b": np.ones(4, "<f8"), "n": np.array(7, "<i8")})
    contents = read(data)
    assert contents.format == "legacy torch tar"
    assert named(contents) == expected(loaded(data, tmp_path))
    assert not contents.oddities


@pytest.mark.parametrize("name", list(KINDS))
def test_every_element_type_is_read(read: Read, tmp_path: Path, name: str) -> None:
    data = tar_of({"x": np.arange(12).astype(name).reshape(3, 4), "after": np.ones(3, "f4")})
    assert named(read(data)) == expected(loaded(data, tmp_path))


def test_strides_and_offsets_are_kept(read: Read, tmp_path: Path) -> None:
    data = with_views((5, 1, (2, 3), (1, 2), 3))
    assert named(read(data)) == expected(loaded(data, tmp_path)) == expected({"x": torch.arange(3.0, 9).view(3, 2).t()})


def test_a_view_of_a_storage_is_counted_from_its_own_start(read: Read, tmp_path: Path) -> None:
    data = with_views((5, 2, (3,), (1,), 1), (2, 1, 4, 6))
    assert named(read(data)) == expected({"x": torch.arange(5.0, 8)})


def test_a_view_of_a_view_is_counted_from_the_first_ones_start(read: Read) -> None:
    data = with_views((5, 3, (3,), (1,), 1), (2, 1, 4, 6), (3, 2, 1, 4))
    assert named(read(data)) == expected({"x": torch.arange(6.0, 9)})


def test_a_bare_storage_is_read_as_a_flat_tensor(read: Read, tmp_path: Path) -> None:
    data = archive({"pickle": pickled({"x": Key(1)}), "tensors": tensors([]), "storages": storages({1: TEN})})
    assert named(read(data)) == expected({"x": torch.tensor(list(loaded(data, tmp_path)["x"]))})


def test_numbers_beside_the_tensors_are_scalars_with_their_place(read: Read) -> None:
    contents = read(tar_of({"epoch": 3, "loss": 0.25, "x": TEN}))
    epoch, loss = contents.scalars
    assert (epoch.value, loss.value) == (3, 0.25)
    assert contents.files[0].read(loss.place, 8) == struct.pack(">d", 0.25)


def test_a_class_that_is_kept_with_its_source_is_put_in_place(read: Read, tmp_path: Path) -> None:
    data = archive(
        {
            "pickle": pickled({"kind": Key((nn.Linear, None, None)), "x": Key(5)}),
            "tensors": tensors([(5, 1, (10,), (1,), 0)]),
            "storages": storages({1: TEN}),
        }
    )
    assert loaded(data, tmp_path)["kind"] is nn.Linear
    assert named(read(data)) == expected({"x": torch.arange(10.0)})


def test_parameters_of_whole_modules_have_the_names_of_a_state_dict(read: Read) -> None:
    class Kept:
        """A parameter as torch 0.1 pickled it: made without a call, then given a state."""

        def __reduce__(self) -> Any:
            return nn.Parameter, (Key(5), True), (True, False, {})

    class Module:
        def __reduce__(self) -> Any:
            return object, (), {"_parameters": {"weight": Kept(), "bias": None}, "_buffers": {}, "_modules": {}}

    entries = tensors([(5, 1, (10,), (1,), 0)])
    data = archive({"pickle": pickled(Module()), "tensors": entries, "storages": storages({1: TEN})})
    assert named(read(data)) == expected({"weight": torch.arange(10.0)})


def test_an_archive_without_pax_headers_is_read(read: Read) -> None:
    parts = whole()
    assert named(read(archive(parts, mtime=0))) == expected({"x": torch.arange(10.0)})


@quick
@given(st.lists(st.integers(0, 5), max_size=6))
def test_any_list_of_tensors_is_read(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    state = {str(at): np.arange(n, dtype="<f4") for at, n in enumerate(sizes)}
    path = tmp_path_factory.mktemp("any") / "model.pth"
    path.write_bytes(tar_of(state))
    contents = read_contents(path)
    assert named(contents) == expected({name: torch.from_numpy(array) for name, array in state.items()})
    contents.close()


# Files that lie, or are cut off


def test_another_tar_archive_is_no_checkpoint(read: Read) -> None:
    with pytest.raises(FileError) as caught:
        read(archive({"notes.txt": b"hello"}))
    assert caught.value.code is Code.NOT_A_CHECKPOINT


def test_an_archive_that_lacks_a_part_is_refused(read: Read) -> None:
    with pytest.raises(FileError, match="lacks the part tensors") as caught:
        read(archive({"pickle": pickled({}), "storages": storages({})}))
    assert caught.value.code is Code.UNREADABLE


def test_a_file_cut_inside_its_storages_tells_how_many_are_whole(read: Read) -> None:
    data = tar_of({"a": np.ones(1000, "f4"), "b": np.ones(1000, "f4"), "c": np.ones(1000, "f4")})
    with pytest.raises(FileError, match="of which 2 of 3 are whole") as caught:
        read(data[: data.rindex(np.ones(3, "f4").tobytes()) - 2000])
    assert caught.value.code is Code.TRUNCATED


def test_a_cut_anywhere_is_a_file_error_and_never_a_wrong_content(tmp_path: Path) -> None:
    data = tar_of({"x": np.ones(3000, "f4")})
    end = data.rindex(np.ones(3, "f4").tobytes()) + 12
    for length in range(1024, end, 97):
        path = tmp_path / "cut.pth"
        path.write_bytes(data[:length])
        with pytest.raises(FileError) as caught:
            read_contents(path)
        assert caught.value.code in (Code.TRUNCATED, Code.NOT_A_CHECKPOINT)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"storages": pickled(1) + pickled((1, "cpu"))}, "should have 3 fields"),
        ({"storages": pickled(1) + pickled(("k", "cpu", torch.FloatStorage)) + bytes(8)}, "'k' where a number"),
        ({"storages": pickled(1) + pickled((1, "cpu", nn.Linear)) + bytes(8)}, "no element type that is known"),
        ({"storages": pickled(1) + pickled((1, "cpu", torch.FloatStorage)) + b"\xff" * 8}, "or no size"),
        ({"storages": storages({1: TEN}, [(2, 9, 0, 1)])}, "a part of 9, which is not in the file"),
        ({"storages": pickled("many")}, "'many' where a number"),
        ({"tensors": pickled(1) + pickled((5, 1, None)) + b"\xff" * 32}, "-1 dimensions"),
        ({"tensors": pickled(1) + pickled((5, 1, None)) + b"\0\1\0\0" + bytes(4)}, "its part tensors goes on behind"),
    ],
)  # fmt: skip
def test_an_archive_that_contradicts_itself_is_refused(read: Read, changed: dict[str, bytes], message: str) -> None:
    parts = whole()
    last = {"filler": bytes(4096)}
    with pytest.raises(FileError, match=message) as caught:
        read(archive({**parts, **changed, **last}))
    assert caught.value.code is Code.UNREADABLE


def test_a_tensor_beyond_its_storage_is_a_misfit(read: Read) -> None:
    (tensor,) = read(with_views((5, 1, (11,), (1,), 0))).tensors
    assert "44 bytes of a storage that has 40" in tensor.misfit()


def test_a_key_that_is_not_in_the_file_leaves_its_tensor_unseen(read: Read) -> None:
    data = archive({"pickle": pickled({"x": Key(6)}), "tensors": tensors([]), "storages": storages({})})
    assert "arguments that it does not take" in read(data).tensors[0].absent


def test_a_part_that_occurs_twice_is_told(read: Read) -> None:
    parts = [
        ("pickle", pickled({})),
        ("tensors", tensors([])),
        ("storages", storages({})),
        ("pickle", pickled({"a": 1})),
    ]
    contents = read(archive(parts))
    assert [oddity.code for oddity in contents.oddities] == [Code.DUPLICATE_NAMES]
    assert [scalar.value for scalar in contents.scalars] == [1]


def test_calls_in_any_part_are_told(read: Read) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return print, ("ran",)

    parts = {"pickle": pickled({}), "tensors": tensors([]), "storages": pickled(0) + pickled([Hostile()])}
    with pytest.raises(FileError, match="4 fields"):
        read(archive(parts))
    parts = {"pickle": pickled({"x": Hostile()}), "tensors": tensors([]), "storages": storages({})}
    assert called(read(archive(parts))) == {"__builtin__.print"}


def test_links_and_long_pax_headers_end_the_walk(read: Read) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:", format=tarfile.PAX_FORMAT) as tar:
        link = tarfile.TarInfo("sys_info")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("pickle"))
    with pytest.raises(FileError) as caught:
        read(stream.getvalue())
    assert caught.value.code is Code.NOT_A_CHECKPOINT


def test_a_part_of_more_than_8_gigabytes_has_its_size_in_a_pax_header(tmp_path: Path) -> None:
    """A sparse file: 9 GB are claimed, and only the ends are written."""
    parts = {"pickle": pickled({"x": Key(5)}), "tensors": tensors([(5, 1, (3,), (1,), 0)])}
    count = 9 * 2**30 // 4
    begun = pickled(1) + pickled((1, "cpu", torch.FloatStorage)) + struct.pack("<q", count) + np.ones(3, "f4").tobytes()
    ended = pickled([])
    size = len(begun) + 4 * (count - 3) + len(ended)
    info = tarfile.TarInfo("storages")
    info.size = size
    header = info.tobuf(tarfile.PAX_FORMAT)
    front = archive(parts).rstrip(b"\0")
    front += b"\0" * (-len(front) % 512)
    path = tmp_path / "large.pth"
    with path.open("wb") as file:
        file.write(front + header + begun)
        file.seek(len(front + header) + size - len(ended))
        file.write(ended + bytes(1024))
    contents = read_contents(path)
    assert named(contents) == expected({"x": torch.ones(3)})
    contents.close()


@quick
@given(at=st.integers(0, 1 << 13), change=st.integers(1, 255))
def test_a_flipped_byte_gives_contents_or_a_file_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, change: int
) -> None:
    data = bytearray(tar_of({"x": np.ones(3, "f4"), "lr": 0.5}))
    data[at % len(data)] ^= change
    path = tmp_path_factory.mktemp("any") / "model.pth"
    path.write_bytes(data)
    try:
        read_contents(path).close()
    except FileError:
        pass
