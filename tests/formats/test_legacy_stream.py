"""Checkpoints in the format of torch before 1.6. torch itself is the oracle: it still reads and writes them."""

import io
import pickle
import struct
from collections import OrderedDict
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
from strategies import quick
from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.formats.contents import Contents, StoredTensor
from torchmend.formats.legacy_stream import MAGIC, VERSION
from torchmend.formats.registry import read_contents

Read = Callable[..., Contents]


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Read]:
    """Read an object that torch saves in the old format, or the bytes of a file; files are closed at the end."""
    opened: list[Contents] = []

    def save_and_read(value: object) -> Contents:
        path = tmp_path / f"{len(opened)}.pth"
        path.write_bytes(value if isinstance(value, bytes) else saved(value))
        opened.append(read_contents(path))
        return opened[-1]

    yield save_and_read
    for contents in opened:
        contents.close()


def saved(value: object, protocol: int = 2) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def loaded(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=False, map_location="cpu")


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def stored_bits(contents: Contents, tensor: StoredTensor) -> bytes:
    assert (tensor.absent or tensor.misfit()) == ""
    raw = tensor.raw(contents.files)
    return raw.astype(raw.dtype.newbyteorder("=")).tobytes()


def named(contents: Contents) -> dict[str, tuple[tuple[int, ...], bytes]]:
    return {
        ".".join(filter(None, (t.container, t.name))): (t.shape, stored_bits(contents, t)) for t in contents.tensors
    }


def expected(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[tuple[int, ...], bytes]]:
    return {name: (tuple(tensor.shape), bits(tensor)) for name, tensor in tensors.items()}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2, bias=False))


# Files written by hand: what torch wrote long ago and does not write any more


class Reference:
    """Stands for something that a pickle names outside itself."""

    def __init__(self, *key: object) -> None:
        self.key = key


class _Pickler(pickle._Pickler):
    """A pickler in Python: the one in C refuses keys that a class under construction names."""

    def persistent_id(self, value: object) -> object:
        return value.key if isinstance(value, Reference) else None


class Rebuilt:
    """A tensor as torch 0.3 pickled it."""

    def __init__(self, reference: Reference, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.args = (reference, offset, size, stride)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return torch._utils._rebuild_tensor, self.args


def storage(key: str, numel: int, view: object = None, kind: type = torch.FloatStorage) -> Reference:
    return Reference("storage", kind, key, "cpu", numel, view)


def by_hand(
    value: object,
    storages: dict[str, np.ndarray] | list[tuple[str, np.ndarray]],
    *,
    version: int = VERSION,
    little: bool = True,
    counts: dict[str, int] | None = None,
) -> bytes:
    stream = io.BytesIO()
    for each in (MAGIC, version, {"protocol_version": version, "little_endian": little, "type_sizes": {}}):
        pickle.dump(each, stream, protocol=2)
    _Pickler(stream, protocol=2).dump(value)
    pairs = list(storages.items()) if isinstance(storages, dict) else storages
    pickle.dump([key for key, _ in pairs], stream, protocol=2)
    for key, elements in pairs:
        stream.write(struct.pack("<q", (counts or {}).get(key, elements.size)) + elements.tobytes())
    return stream.getvalue()


TEN = np.arange(10, dtype="<f4")


# What torch saved is what is read


@pytest.mark.parametrize("protocol", range(2, 6))
def test_a_state_dict_is_read_as_torch_saved_it(read: Read, protocol: int) -> None:
    state = Net().state_dict()
    contents = read(saved(state, protocol))
    assert contents.format == "legacy torch stream"
    assert named(contents) == expected(state)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool,
                                   torch.complex64, torch.complex128], ids=str)  # fmt: skip
def test_every_element_type_of_the_old_format_is_read(read: Read, dtype: torch.dtype) -> None:
    state = {"x": torch.arange(12).reshape(3, 4).to(dtype), "after": torch.ones(3)}
    assert named(read(state)) == expected(state)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint16, torch.uint64], ids=str)
def test_element_types_without_a_storage_class_are_read(read: Read, dtype: torch.dtype) -> None:
    state = {"x": torch.arange(12).reshape(3, 4).to(dtype), "after": torch.ones(3)}
    assert named(read(state)) == expected(state)


def test_views_and_transposes_of_one_storage_are_read(read: Read) -> None:
    base = torch.arange(24.0)
    state = {"part": base[4:10], "turned": base.view(4, 6).t(), "wide": base[3].expand(5), "none": base[:0]}
    assert named(read(state)) == expected(state)


def test_a_whole_pickled_module_has_the_names_of_its_state_dict(read: Read) -> None:
    model = Net()
    assert named(read(model)) == expected(dict(model.state_dict()))


def test_a_class_is_named_as_such_though_it_is_pickled_with_its_source(read: Read) -> None:
    assert called(read({"kind": nn.Linear, "x": torch.ones(1)})) <= {"torch._utils._rebuild_tensor_v2",
                                                                       "collections.OrderedDict"}  # fmt: skip


def test_a_training_checkpoint_has_its_optimizer_and_its_scalars(read: Read) -> None:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    contents = read({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "loss": 0.25})
    assert set(contents.optimizers) == {"optimizer"}
    assert {scalar.path: scalar.value for scalar in contents.scalars if len(scalar.path) == 1} == {
        ("epoch",): 3, ("loss",): 0.25,
    }  # fmt: skip


def test_the_place_of_a_float_is_where_its_bytes_stand_in_the_file(read: Read) -> None:
    contents = read({"loss": 0.25, "x": torch.ones(3)})
    (scalar,) = (scalar for scalar in contents.scalars if scalar.path == ("loss",))
    assert contents.files[0].read(scalar.place, 8) == struct.pack(">d", 0.25)


def test_a_bare_tensor_is_read(read: Read) -> None:
    assert named(read(torch.arange(3.0))) == expected({"(tensor)": torch.arange(3.0)})


def test_an_object_without_tensors_is_read(read: Read) -> None:
    assert read({"epoch": 3}).tensors == ()


@quick
@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([torch.float32, torch.int64, torch.bfloat16])), max_size=6)
)
def test_any_list_of_tensors_is_read(tmp_path_factory: pytest.TempPathFactory, kinds: list[Any]) -> None:
    state = {str(at): torch.arange(n).to(dtype) for at, (n, dtype) in enumerate(kinds)}
    path = tmp_path_factory.mktemp("any") / "model.pth"
    path.write_bytes(saved(state))
    contents = read_contents(path)
    assert named(contents) == expected(state)
    assert not contents.oddities
    contents.close()


# What older writers made


def test_references_of_five_elements_are_read(read: Read) -> None:
    tensor = Rebuilt(Reference("storage", torch.FloatStorage, "7", "cpu", 10), 2, (2, 3), (3, 1))
    assert named(read(by_hand({"x": tensor}, {"7": TEN}))) == expected({"x": torch.arange(2.0, 8).view(2, 3)})


def test_a_view_of_a_storage_is_counted_from_its_own_start(read: Read) -> None:
    data = by_hand({"x": Rebuilt(storage("7", 10, ("8", 4, 5)), 1, (3,), (1,))}, {"7": TEN})
    assert named(read(data)) == expected({"x": loaded(data)["x"]}) == expected({"x": torch.arange(5.0, 8)})


def test_tensors_in_different_views_of_the_same_elements_are_one(read: Read) -> None:
    one = Rebuilt(storage("7", 10, ("8", 4, 5)), 1, (3,), (1,))
    other = Rebuilt(storage("7", 10, ("9", 5, 5)), 0, (3,), (1,))
    first, second = read(by_hand({"a": one, "b": other}, {"7": TEN})).tensors
    assert (first.extent, first.offset) == (second.extent, second.offset)


def test_a_tensor_that_leaves_its_view_is_a_misfit(read: Read) -> None:
    data = by_hand({"x": Rebuilt(storage("7", 10, ("8", 4, 5)), 1, (5,), (1,))}, {"7": TEN})
    (tensor,) = read(data).tensors
    assert "24 bytes of a storage that has 20" in tensor.misfit()


def test_a_view_that_leaves_its_storage_is_not_looked_at(read: Read) -> None:
    (tensor,) = read(by_hand({"x": Rebuilt(storage("7", 10, ("8", 8, 5)), 0, (2,), (1,))}, {"7": TEN})).tensors
    assert "12 bytes behind the storage's end" in tensor.absent


def test_an_ordered_dict_of_python_2_gives_its_names(read: Read) -> None:
    class Listed:
        def __reduce__(self) -> Any:
            return OrderedDict, ([["conv.weight", Rebuilt(storage("7", 10), 0, (10,), (1,))]],)

    assert [tensor.name for tensor in read(by_hand(Listed(), {"7": TEN})).tensors] == ["conv.weight"]


@pytest.mark.parametrize("little", [True, False])
def test_elements_are_little_endian_whatever_the_writing_machine_was(read: Read, little: bool) -> None:
    data = by_hand({"x": Rebuilt(storage("7", 10), 0, (10,), (1,))}, {"7": TEN}, little=little)
    assert named(read(data)) == expected(loaded(data)) == expected({"x": torch.arange(10.0)})


@pytest.mark.parametrize("protocol", [0, 1])
def test_the_oldest_pickle_protocols_are_recognised(read: Read, protocol: int) -> None:
    stream = io.BytesIO()
    for each in (MAGIC, VERSION, {}, {"epoch": 3}, []):
        pickle.dump(each, stream, protocol=protocol)
    assert [scalar.value for scalar in read(stream.getvalue()).scalars] == [3]


# Files that lie, or are cut off


def test_a_count_that_differs_from_the_index_is_refused(read: Read) -> None:
    data = by_hand({"x": Rebuilt(storage("7", 10), 0, (10,), (1,))}, {"7": TEN}, counts={"7": 9})
    with pytest.raises(FileError, match="storage 7 has 10 elements in the index and 9 in the data") as caught:
        read(data)
    assert caught.value.code is Code.UNREADABLE


def test_a_storage_that_nothing_refers_to_ends_what_can_be_found(read: Read) -> None:
    with pytest.raises(FileError, match="nothing tells the element type of storage 8"):
        read(by_hand({"x": Rebuilt(storage("7", 10), 0, (10,), (1,))}, {"8": TEN, "7": TEN}))


def test_a_storage_that_is_not_in_the_file_leaves_its_tensor_unseen(read: Read) -> None:
    data = by_hand({"x": Rebuilt(storage("7", 10), 0, (10,), (1,)), "y": Rebuilt(storage("8", 1), 0, (1,), (1,))},
                   {"7": TEN})  # fmt: skip
    assert [tensor.absent for tensor in read(data).tensors] == ["", "its storage 8 is not in the file"]


def test_a_storage_that_is_listed_twice_is_told(read: Read) -> None:
    data = by_hand({"x": Rebuilt(storage("7", 10), 0, (10,), (1,))}, [("7", TEN), ("7", TEN + 1)])
    contents = read(data)
    assert Code.DUPLICATE_NAMES in {oddity.code for oddity in contents.oddities}
    assert named(contents) == expected(loaded(data))


def test_a_version_of_the_future_is_refused(read: Read) -> None:
    with pytest.raises(FileError, match="version 1002"):
        read(by_hand({}, {}, version=1002))


@pytest.mark.parametrize("keys", [7, {"7": 1}, [None]])
def test_a_list_of_storages_that_is_none_is_refused(read: Read, keys: object) -> None:
    with pytest.raises(FileError, match="its list of storages is none"):
        read(b"".join(pickle.dumps(each, 2) for each in (MAGIC, VERSION, {}, {}, keys)))


def test_bytes_behind_the_last_storage_are_told(read: Read) -> None:
    (oddity,) = read(saved({"x": torch.ones(3)}) + bytes(100_000)).oddities
    assert (oddity.code, oddity.detail) == (Code.UNREFERENCED, "100,000 bytes: 100,000 lie between the pieces")


def test_a_storage_of_which_no_tensor_uses_anything_is_told(read: Read) -> None:
    tensor = Rebuilt(storage("7", 10), 0, (10,), (1,))
    data = by_hand({"x": tensor, "y": Rebuilt(storage("8", 10), 0, (0,), (1,))}, {"7": TEN, "8": TEN})
    assert [oddity.detail for oddity in read(data).oddities] == ["40 bytes: no tensor uses storage 8"]


def test_a_file_cut_inside_a_storage_tells_how_many_are_whole(read: Read) -> None:
    data = saved([torch.ones(10), torch.ones(10), torch.ones(10)])
    with pytest.raises(FileError, match="of which 1 of 3 are whole") as caught:
        read(data[:-60])
    assert caught.value.code is Code.TRUNCATED


def test_a_file_cut_inside_a_count_tells_how_many_are_whole(read: Read) -> None:
    with pytest.raises(FileError, match="of which 0 of 1 are whole") as caught:
        read(saved(torch.ones(10))[:-44])
    assert caught.value.code is Code.TRUNCATED


def test_a_file_cut_inside_its_pickles_is_truncated(read: Read) -> None:
    with pytest.raises(FileError, match="inside its pickles, before the first storage") as caught:
        read(saved(Net().state_dict())[:600])
    assert caught.value.code is Code.TRUNCATED


def test_a_cut_anywhere_is_a_file_error(tmp_path: Path) -> None:
    data = saved({"x": torch.ones(2), "y": torch.ones(2), "lr": 0.5})
    for length in range(32, len(data)):
        path = tmp_path / "cut.pth"
        path.write_bytes(data[:length])
        with pytest.raises(FileError) as caught:
            read_contents(path)
        assert caught.value.code is Code.TRUNCATED


def test_a_claim_of_a_gigabyte_takes_no_memory(read: Read) -> None:
    with pytest.raises(FileError, match="0 of 1 are whole"):
        read(by_hand({"x": Rebuilt(storage("7", 1 << 28), 0, (1 << 28,), (1,))}, {"7": TEN}, counts={"7": 1 << 28}))


def test_a_call_hidden_in_any_of_the_pickles_is_told(read: Read) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return print, ("ran",)

    pickles = (MAGIC, VERSION, {"note": Hostile()}, {}, [])
    assert called(read(b"".join(pickle.dumps(each, 2) for each in pickles))) == {"__builtin__.print"}


def test_a_call_hidden_behind_a_class_reference_is_told(read: Read) -> None:
    # ('module', os.system, None, None) as a reference, called with an argument
    call = b"\x80\x02(X\x06\0\0\0modulecos\nsystem\nNNtQX\x01\0\0\0a\x85R."
    pickles = [pickle.dumps(each, 2) for each in (MAGIC, VERSION, {})]
    assert called(read(b"".join([*pickles, call, pickle.dumps([], 2)]))) == {"os.system"}


@quick
@given(at=st.integers(0, 2000), change=st.integers(1, 255))
def test_a_flipped_byte_gives_contents_or_a_file_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, change: int
) -> None:
    data = bytearray(saved({"x": torch.ones(2), "y": torch.ones(2, 3), "lr": 0.5}))
    data[at % len(data)] ^= change
    path = tmp_path_factory.mktemp("any") / "model.pth"
    path.write_bytes(data)
    try:
        read_contents(path).close()
    except FileError:
        pass
