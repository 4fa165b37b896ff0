"""Tensors come out of a conversion bit for bit, under their names, in files that their own libraries load."""

import errno
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

import bad_files
import checkpoints
import strategies
from strategies import quick
from torchmend.doctor.converting import ConvertOptions, convert_file
from torchmend.doctor.writing import outputs
from torchmend.doctor.writing.outputs import Layout
from torchmend.facts.dtypes import DTYPES, Kind
from torchmend.facts.errors import FileError, SourceChangedError, UserError

PLAIN = [dtype.name for dtype in DTYPES.values() if dtype.kind is not Kind.PACKED]
SAFETENSORS = [name for name in PLAIN if name not in ("complex128", "complex32")]
BOTH = ("out.pth", "out.safetensors")


def bits(tensor):
    """Return what a tensor is: type, shape and bytes."""
    flat = tensor.detach().contiguous().reshape(-1)
    return tensor.dtype, tuple(tensor.shape), bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""


def load(path):
    """Load with the library that the file is for: torch in its safe mode, mapped, or safetensors."""
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    return torch.load(path, weights_only=True, mmap=True)


def convert(source, output, **options):
    return convert_file(source, output, ConvertOptions(**options))


def of_every_type(names=PLAIN):
    generator = np.random.default_rng(0)
    tensors = {}
    for name in names:
        raw = torch.from_numpy(generator.integers(0, 2 if name == "bool" else 256, 48, dtype=np.uint8))
        tensors[name] = raw.view(getattr(torch, name)).reshape(3, -1)
    return tensors


def in_folder(folder):
    return sorted(path.name for path in folder.iterdir())


# Round trips


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_every_type_goes_through_a_torch_file_bit_for_bit(tmp_path):
    tensors = of_every_type()
    result = convert(checkpoints.save(tensors, tmp_path / "a.pth"), tmp_path / "b.pth")
    assert result.succeeded
    assert {name: bits(t) for name, t in load(tmp_path / "b.pth").items()} == {n: bits(t) for n, t in tensors.items()}


def test_every_type_that_safetensors_has_goes_there_and_back_bit_for_bit(tmp_path):
    tensors = of_every_type(SAFETENSORS)
    convert(checkpoints.save(tensors, tmp_path / "a.pth"), tmp_path / "b.safetensors")
    convert(tmp_path / "b.safetensors", tmp_path / "c.pth")
    for path in (tmp_path / "b.safetensors", tmp_path / "c.pth"):
        assert {name: bits(t) for name, t in load(path).items()} == {n: bits(t) for n, t in tensors.items()}


@pytest.mark.parametrize("name", ["complex128", "complex32"])
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_a_type_that_safetensors_lacks_is_refused(tmp_path, name):
    source = checkpoints.save(of_every_type([name]), tmp_path / "a.pth")
    result = convert(source, tmp_path / "b.safetensors")
    assert (result.output, [each.path for each in result.refused]) == (None, [name])
    assert in_folder(tmp_path) == ["a.pth"]


@quick
@given(st.data())
def test_any_tensor_goes_there_and_back_bit_for_bit(tmp_path_factory, data):
    dtype = data.draw(st.sampled_from([each for each in strategies.FLOATING if each.name in SAFETENSORS]))
    laid = data.draw(strategies.layouts(dtype))
    tensor = strategies.as_torch(laid.copy, dtype)
    tensor = torch.view_as_complex(tensor) if dtype.kind is Kind.COMPLEX else tensor
    if data.draw(st.booleans()):
        tensor = tensor.permute(tuple(reversed(range(tensor.ndim))))
    folder = tmp_path_factory.mktemp("any")
    checkpoints.save({"t": tensor}, folder / "a.pth")
    convert(folder / "a.pth", folder / "b.safetensors")
    convert(folder / "b.safetensors", folder / "c.pth")
    assert bits(load(folder / "b.safetensors")["t"]) == bits(load(folder / "c.pth")["t"]) == bits(tensor)


@pytest.mark.parametrize("output", BOTH)
@pytest.mark.parametrize(
    "view",
    [
        lambda t: t.t(),
        lambda t: t[::2, 1:],
        lambda t: t[0].expand(4, 6),
        lambda t: t.reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
        lambda t: t.as_strided((3, 3), (2, 1)),
        lambda t: t[:0],
        lambda t: t[1, 2],
    ],
)
def test_a_view_of_any_strides_comes_out_with_its_elements(tmp_path, output, view):
    tensor = view(torch.arange(24.0).reshape(4, 6))
    convert(checkpoints.save({"t": tensor}, tmp_path / "a.pth"), tmp_path / output)
    assert bits(load(tmp_path / output)["t"]) == bits(tensor)


@pytest.mark.parametrize("output", BOTH)
@pytest.mark.parametrize("name", ["float32", "bfloat16", "complex64", "int64"])
def test_a_big_endian_file_is_swapped(tmp_path, output, name):
    tensor = of_every_type([name])[name]
    width = tensor.element_size() // (2 if tensor.is_complex() else 1)
    torch.save({"t": tensor}, stream := io.BytesIO())
    with zipfile.ZipFile(stream) as archive, zipfile.ZipFile(tmp_path / "a.pth", "w") as swapped:
        for info in archive.infolist():
            data = archive.read(info)
            if "/data/" in info.filename:
                data = np.frombuffer(data, f"u{width}").byteswap().tobytes()
            swapped.writestr(info.filename, b"big" if info.filename.endswith("byteorder") else data)
    convert(tmp_path / "a.pth", tmp_path / output)
    assert bits(load(tmp_path / output)["t"]) == bits(tensor)


def test_torch_can_compute_where_storages_start(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_SERIALIZATION_DEBUG", "1")  # torch then compares with where they are
    tensors = {"e": torch.zeros(0), **of_every_type(SAFETENSORS)}
    convert(checkpoints.save(tensors, tmp_path / "a.pth"), tmp_path / "b.pth")
    with torch.utils.serialization.config.patch("load.calculate_storage_offsets", True):
        loaded = load(tmp_path / "b.pth")
    assert {n: bits(t) for n, t in loaded.items()} == {n: bits(t) for n, t in tensors.items()}


# Names and containers


def test_a_torch_file_keeps_containers(tmp_path):
    checkpoint = checkpoints.training_checkpoint()
    result = convert(checkpoints.save(checkpoint, tmp_path / "a.pth"), tmp_path / "b.pth")
    loaded = load(tmp_path / "b.pth")
    model = loaded["model_state_dict"]
    assert {n: bits(t) for n, t in model.items()} == {n: bits(t) for n, t in checkpoint["model_state_dict"].items()}
    assert "state.0.exp_avg" in loaded["optimizer_state_dict"]
    assert "iteration" in {scalar.dotted for scalar in result.scalars}


def test_nested_containers_stay_nested(tmp_path):
    value = {"a": {"b": {"w": torch.ones(2), "v": torch.ones(2)}}, "c": {"x": torch.ones(1)}}
    convert(checkpoints.save(value, tmp_path / "a.pth"), tmp_path / "b.pth")
    assert load(tmp_path / "b.pth")["a"]["b"]["w"].tolist() == [1, 1]


def test_safetensors_names_have_their_container_before_them_if_there_are_several(tmp_path):
    value = {"model": {"w": torch.ones(2), "b": torch.ones(2)}, "ema": {"w": torch.ones(2), "b": torch.ones(2)}}
    convert(checkpoints.save(value, tmp_path / "a.pth"), tmp_path / "b.safetensors")
    assert sorted(load(tmp_path / "b.safetensors")) == ["ema.b", "ema.w", "model.b", "model.w"]


def test_safetensors_names_are_plain_if_there_is_one_container(tmp_path):
    convert(checkpoints.save({"model": {"w": torch.ones(2)}}, tmp_path / "a.pth"), tmp_path / "b.safetensors")
    assert list(load(tmp_path / "b.safetensors")) == ["w"]


@pytest.mark.parametrize("output", BOTH)
def test_a_chosen_container_becomes_the_root(tmp_path, output):
    source = checkpoints.save(checkpoints.training_checkpoint(), tmp_path / "a.pth")
    convert(source, tmp_path / output, container="model_state_dict")
    network = checkpoints.Network()
    network.load_state_dict(load(tmp_path / output))
    assert torch.equal(network.head.bias, checkpoints.state_dict()["head.bias"])


def test_a_container_that_is_not_there_is_a_mistake_that_lists_those_that_are(tmp_path):
    source = checkpoints.save(checkpoints.training_checkpoint(), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"no tensors in a container 'model'\. It has model_state_dict, optimizer"):
        convert(source, tmp_path / "b.pth", container="model")


def test_names_that_collide_are_refused(tmp_path):
    value = {
        "a": {"x": torch.ones(1), "y": torch.ones(1), "z": torch.ones(1), "b.w": torch.ones(1), "b": {}},
        "a.b": {"w": torch.zeros(1)},
    }
    source = checkpoints.save(value, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"Two tensors would be called a.b.w"):
        convert(source, tmp_path / "b.safetensors")
    assert in_folder(tmp_path) == ["a.pth"]


@pytest.mark.parametrize("name", ["__metadata__", "\ud800"])
def test_a_name_that_safetensors_cannot_hold_is_refused(tmp_path, name):
    source = checkpoints.save({name: torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="cannot hold a tensor called"):
        convert(source, tmp_path / "b.safetensors")


def test_a_place_that_is_a_tensor_and_a_dictionary_at_once_is_refused(tmp_path):
    value = {"x": {"a": torch.ones(1), "a2": torch.ones(1), "a3": torch.ones(1)}, "x.a": {"w": torch.ones(1)}}
    source = checkpoints.save(value, tmp_path / "a.pth")
    with pytest.raises(UserError, match="into the same place"):
        convert(source, tmp_path / "b.pth")
    assert in_folder(tmp_path) == ["a.pth"]


def test_transformers_is_told_that_the_tensors_are_of_torch(tmp_path):
    convert(checkpoints.save({"w": torch.ones(1)}, tmp_path / "a.pth"), tmp_path / "b.safetensors")
    with safetensors.safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


# Shared storages


def test_tied_weights_stay_tied_in_a_torch_file(tmp_path):
    weight = torch.arange(12.0).reshape(3, 4)
    value = {"a": weight, "b": weight, "row": weight[1], "t": weight.t()}
    convert(checkpoints.save(value, tmp_path / "a.pth"), tmp_path / "b.pth")
    loaded = torch.load(tmp_path / "b.pth", weights_only=True)
    assert len({t.untyped_storage().data_ptr() for t in loaded.values()}) == 1
    assert {n: bits(t) for n, t in loaded.items()} == {n: bits(t) for n, t in value.items()}


def test_a_small_view_of_a_large_storage_is_stored_by_itself(tmp_path):
    large = torch.zeros(100_000)
    convert(checkpoints.save({"w": large[5:9], "v": large[90_000:90_004]}, tmp_path / "a.pth"), tmp_path / "b.pth")
    assert (tmp_path / "b.pth").stat().st_size < 10_000


def test_safetensors_get_a_copy_for_every_name_and_the_result_says_which(tmp_path):
    weight = torch.arange(4.0)
    value = {"a": weight, "b": weight, "half": weight[:2], "other": torch.ones(4)}
    result = convert(checkpoints.save(value, tmp_path / "a.pth"), tmp_path / "b.safetensors")
    assert result.copies == {"b": "a", "half": "a"}
    assert {n: bits(t) for n, t in load(tmp_path / "b.safetensors").items()} == {n: bits(t) for n, t in value.items()}


def test_neighbours_in_one_storage_are_no_copies(tmp_path):
    flat = torch.arange(10.0)
    source = checkpoints.save({"a": flat[:4], "b": flat[4:]}, tmp_path / "a.pth")
    assert convert(source, tmp_path / "b.safetensors").copies == {}


# Shards


def test_shards_load_by_their_index(tmp_path):
    state = checkpoints.state_dict()
    source = checkpoints.save(state, tmp_path / "a.pth")
    result = convert(source, tmp_path / "out", max_shard_bytes=70_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert result.output == tmp_path / "out" / "model.safetensors.index.json"
    assert len(set(index["weight_map"].values())) == len(result.files) - 1 > 1
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in state.values())
    for name, tensor in state.items():
        assert bits(load(tmp_path / "out" / index["weight_map"][name])[name]) == bits(tensor)
    assert in_folder(tmp_path) == ["a.pth", "out"]


def test_shards_go_into_a_folder_that_exists_and_leave_what_is_in_it(tmp_path):
    source = checkpoints.save(checkpoints.state_dict(), tmp_path / "a.pth")
    (tmp_path / "config.json").write_text("{}")
    convert(source, tmp_path / "model.safetensors.index.json")
    assert in_folder(tmp_path) == [
        "a.pth",
        "config.json",
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
    ]


@pytest.mark.parametrize("taken", ["model.safetensors.index.json", "model-00001-of-00001.safetensors"])
def test_a_shard_or_an_index_that_exists_is_refused_unless_forced(tmp_path, taken):
    source = checkpoints.save(checkpoints.state_dict(), tmp_path / "a.pth")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / taken).write_text("mine")
    with pytest.raises(UserError, match="Use --force"):
        convert(source, tmp_path / "out")
    assert (tmp_path / "out" / taken).read_text() == "mine"
    assert len(in_folder(tmp_path / "out")) == 1
    assert convert(source, tmp_path / "out", force=True).succeeded


def test_shards_cannot_replace_those_that_they_come_from(tmp_path):
    source = checkpoints.save(checkpoints.state_dict(), tmp_path / "a.pth")
    convert(source, tmp_path / "out", max_shard_bytes=70_000)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(UserError, match="is read for this"):
        convert(tmp_path / "out", tmp_path / "out" / "other.index.json", max_shard_bytes=70_000, force=True)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


# From other formats


def test_shards_go_back_into_one_file(tmp_path):
    state = checkpoints.state_dict()
    convert(checkpoints.save(state, tmp_path / "a.pth"), tmp_path / "out", max_shard_bytes=70_000)
    for source in (tmp_path / "out", tmp_path / "out" / "model.safetensors.index.json"):
        convert(source, tmp_path / "b.pth", force=True)
        assert {n: bits(t) for n, t in load(tmp_path / "b.pth").items()} == {n: bits(t) for n, t in state.items()}


@pytest.mark.parametrize("output", BOTH)
def test_a_legacy_file_is_converted(tmp_path, output):
    tensors = of_every_type(["float32", "int64", "bool", "bfloat16"])
    torch.save(tensors, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    convert(tmp_path / "a.pth", tmp_path / output)
    assert {n: bits(t) for n, t in load(tmp_path / output).items()} == {n: bits(t) for n, t in tensors.items()}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_numpy_arrays_are_converted(tmp_path, save):
    arrays = {"a": np.arange(6, dtype=">f4").reshape(2, 3), "b": np.asfortranarray(np.ones((2, 3), dtype=np.int16))}
    save(tmp_path / "a.npz", **arrays)
    convert(tmp_path / "a.npz", tmp_path / "b.safetensors")
    loaded = load(tmp_path / "b.safetensors")
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == {n: a.tolist() for n, a in arrays.items()}


def test_compressed_records_are_converted(tmp_path):
    source = bad_files.rezipped(tmp_path / "a.pth")
    convert(source, tmp_path / "b.pth")
    original = torch.load(source, weights_only=True)
    assert {n: bits(t) for n, t in load(tmp_path / "b.pth").items()} == {n: bits(t) for n, t in original.items()}


# What cannot be written


def quantised_and_sparse():
    weight = torch.ones(3, 4)
    return {"w": weight, "s": weight.to_sparse(), "m": torch.empty(2, device="meta")}


@pytest.mark.parametrize("output", BOTH)
def test_tensors_that_cannot_be_written_are_listed_and_nothing_is_written(tmp_path, output):
    source = checkpoints.save(quantised_and_sparse(), tmp_path / "a.pth")
    result = convert(source, tmp_path / output)
    assert [each.path for each in result.refused] == ["s.indices", "s.values", "m"]
    assert not result.succeeded
    assert in_folder(tmp_path) == ["a.pth"]


def test_the_rest_is_written_if_that_is_allowed(tmp_path):
    source = checkpoints.save(quantised_and_sparse(), tmp_path / "a.pth")
    result = convert(source, tmp_path / "b.pth", allow_partial=True)
    assert list(load(tmp_path / "b.pth")) == ["w"]
    assert not result.succeeded


def test_nothing_in_a_hostile_pickle_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad_files.hostile(tmp_path / "a.pth")
    assert convert(tmp_path / "a.pth", tmp_path / "b.pth").succeeded
    assert in_folder(tmp_path) == ["a.pth", "b.pth"]
    assert torch.equal(load(tmp_path / "b.pth")["head.bias"], checkpoints.state_dict()["head.bias"])


def test_a_cut_file_is_sent_to_salvage(tmp_path):
    whole = checkpoints.save(checkpoints.state_dict(), tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(whole[:-100])
    with pytest.raises(FileError, match=r"a.pth: The file is cut off.* torchmend salvage "):
        convert(tmp_path / "a.pth", tmp_path / "b.pth")


def test_a_file_without_tensors_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="holds no tensors"):
        convert(checkpoints.save({"x": 1}, tmp_path / "a.pth"), tmp_path / "b.pth")


# Where it goes


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("x.pth", Layout.TORCH),
        ("x.ckpt", Layout.TORCH),
        ("x.safetensors", Layout.SAFETENSORS),
        ("x", Layout.SHARDED),
        ("x.index.json", Layout.SHARDED),
    ],
)
def test_the_name_tells_the_layout(name, layout):
    assert outputs.layout_for(Path(name)) is layout


def test_a_name_that_does_not_tell_is_a_mistake(tmp_path):
    source = checkpoints.save({"w": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="does not tell how to write it"):
        convert(source, tmp_path / "b.npz")
    assert convert(source, tmp_path / "b.npz", to=Layout.TORCH).succeeded


@pytest.mark.parametrize("output", BOTH)
def test_an_existing_file_is_refused_unless_forced(tmp_path, output):
    source = checkpoints.save({"w": torch.ones(1)}, tmp_path / "a.pth")
    (tmp_path / output).write_text("mine")
    with pytest.raises(UserError, match="exists"):
        convert(source, tmp_path / output)
    assert (tmp_path / output).read_text() == "mine"
    assert convert(source, tmp_path / output, force=True).succeeded


def test_the_source_is_no_output_even_if_forced(tmp_path):
    source = checkpoints.save({"w": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="is read for this"):
        convert(source, source, force=True)


@pytest.mark.parametrize("output", ["out.pth", "out.safetensors", "out", "model.safetensors.index.json"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
@pytest.mark.parametrize("calls", [1, 5])
def test_a_full_disk_or_an_interrupt_leaves_nothing(tmp_path, output, error, calls):
    source = checkpoints.save(checkpoints.state_dict(), tmp_path / "a.pth")
    left = calls

    def stop(_done, _total):
        nonlocal left
        left -= 1
        if not left:
            raise error

    with pytest.raises(type(error)):
        convert_file(source, tmp_path / output, ConvertOptions(max_shard_bytes=1000), stop)
    assert in_folder(tmp_path) == ["a.pth"]


def test_shards_that_cannot_all_get_their_names_get_none(tmp_path, monkeypatch):
    source = checkpoints.save(checkpoints.state_dict(), tmp_path / "a.pth")
    replace = Path.replace

    def fails_for_the_index(path, target):
        if target.name.endswith(".json"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fails_for_the_index)
    with pytest.raises(OSError, match="Input/output"):
        convert(source, tmp_path / "model.safetensors.index.json", max_shard_bytes=70_000)
    assert in_folder(tmp_path) == ["a.pth"]


def test_a_source_that_changes_meanwhile_gives_no_output(tmp_path):
    source = checkpoints.save(checkpoints.state_dict(), tmp_path / "a.pth")
    with pytest.raises(SourceChangedError):
        convert_file(source, tmp_path / "b.pth", None, lambda *_: os.utime(source, (1, 1)))
    assert in_folder(tmp_path) == ["a.pth"]


def test_progress_adds_up_to_what_there_is_to_write(tmp_path):
    source = checkpoints.save(checkpoints.state_dict(), tmp_path / "a.pth")
    told = []
    result = convert_file(source, tmp_path / "b.pth", None, lambda done, total: told.append((done, total)))
    assert sum(done for done, _ in told) == result.nbytes == told[0][1]
