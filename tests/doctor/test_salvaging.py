"""Whatever is whole in a cut or damaged file comes back bit for bit, and nothing else does."""

import errno
import functools
import io
import os
import random
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

import bad_files
import checkpoints
from strategies import quick
from torchmend.doctor.packing import pack
from torchmend.doctor.salvaging import SalvageOptions, salvage_file
from torchmend.doctor.writing.outputs import Layout
from torchmend.facts.errors import FileError, UserError
from torchmend.formats.salvage.remains import read_remains

WEIGHT = torch.arange(40.0)
VALUE = {
    "model": {
        "a.weight": torch.arange(12, dtype=torch.int16).reshape(3, 4),
        "empty": torch.zeros(0, 2),
        "a.bias": torch.rand(5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16),
        "tied": WEIGHT,
        "also tied": WEIGHT,
        "front": WEIGHT[3:7],
        "half": WEIGHT[::2],
        "float8": torch.ones(9).to(torch.float8_e5m2),
    },
    "optimizer": {"state": {0: {"exp_avg": torch.rand(3, 3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    "iteration": 7,
}
FLAT = {
    **{f"model.{name}": tensor for name, tensor in VALUE["model"].items()},
    "optimizer.state.0.exp_avg": VALUE["optimizer"]["state"][0]["exp_avg"],
}


def bits(tensor):
    flat = tensor.contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""


def torch_file(**options):
    torch.save(VALUE, stream := io.BytesIO(), **options)
    return stream.getvalue()


def packed_anew(compression, *, last=""):
    """Pack the records of a torch file as Python's zipfile does: sizes and checksums in the local headers."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(torch_file())) as archive, zipfile.ZipFile(out, "w", compression) as copy:
        for info in sorted(archive.infolist(), key=lambda info: bool(last) and info.filename.endswith(last)):
            copy.writestr(zipfile.ZipInfo(info.filename), archive.read(info), compression)
    return out.getvalue()


def streamed_anew(compression):
    """Pack the records as into a pipe: sizes and checksums behind the payloads."""

    class Pipe(io.RawIOBase):
        def __init__(self):
            self.data = b""

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    out = Pipe()
    with zipfile.ZipFile(io.BytesIO(torch_file())) as archive, zipfile.ZipFile(out, "w", compression) as copy:
        for info in archive.infolist():
            with copy.open(zipfile.ZipInfo(info.filename), "w") as member:
                member.write(archive.read(info))
    return out.data


KINDS = {
    "torch": torch_file,
    "stored": lambda: packed_anew(zipfile.ZIP_STORED),
    "deflated": lambda: packed_anew(zipfile.ZIP_DEFLATED),
    "index last": lambda: packed_anew(zipfile.ZIP_STORED, last="data.pkl"),
    "streamed": lambda: streamed_anew(zipfile.ZIP_STORED),
    "streamed and deflated": lambda: streamed_anew(zipfile.ZIP_DEFLATED),
    "legacy": lambda: torch_file(_use_new_zipfile_serialization=False),
    "safetensors": lambda: safetensors.torch.save({name: tensor.clone() for name, tensor in FLAT.items()}),
}


@functools.cache
def whole(kind):
    return KINDS[kind]()


def recovered(path, **options):
    """Return the bytes of every tensor that counts as whole; None where nothing can be named."""
    try:
        remains = read_remains(path)
    except FileError:
        return None
    parcels, _ = pack(remains.contents, Layout.TORCH, **options)
    found = {parcel.path: b"".join(bytes(chunk) for chunk in parcel.chunks()) for parcel in parcels}
    remains.contents.close()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_at_any_byte_gives_back_only_whole_tensors_and_never_fewer_than_a_shorter_one(tmp_path, kind):
    data, path = whole(kind), tmp_path / "cut"
    expected = {name: bits(tensor) for name, tensor in FLAT.items()}
    before, seen = {}, set()
    for length in range(1, len(data) + 1):
        path.write_bytes(data[:length])
        found = recovered(path) or {}
        assert found.items() <= expected.items(), length
        assert before.keys() <= found.keys(), length
        before = found
        seen.add(len(found))
    assert before == expected
    assert kind == "index last" or len(seen) > 5


@pytest.mark.parametrize("kind", ["torch", "streamed", "safetensors", "legacy"])
def test_a_tensor_is_back_as_soon_as_its_last_byte_is_there(tmp_path, kind):
    data = whole(kind)
    end = data.index(bits(FLAT["model.a.weight"])) + 24
    (tmp_path / "cut").write_bytes(data[:end])
    assert "model.a.weight" in recovered(tmp_path / "cut")
    (tmp_path / "cut").write_bytes(data[: end - 1])
    assert "model.a.weight" not in recovered(tmp_path / "cut")


@pytest.mark.parametrize("kind", ["torch", "legacy"])
def test_a_view_that_lies_before_the_cut_is_back_though_its_storage_is_not_whole(tmp_path, kind):
    data = whole(kind)
    (tmp_path / "cut").write_bytes(data[: data.index(bits(WEIGHT)) + 7 * 4])
    assert {"model.front"} == {name for name in recovered(tmp_path / "cut") if name in ("model.front", "model.tied")}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("safetensors", "legacy")])
def test_an_archive_whose_directory_is_gone_gives_back_everything(tmp_path, kind):
    data = whole(kind)
    directory = data.index(b"PK\x01\x02")
    expected = {name: bits(tensor) for name, tensor in FLAT.items()}
    for tail in (b"", bytes(len(data) - directory), os.urandom(500)):
        (tmp_path / "x").write_bytes(data[:directory] + tail)
        assert recovered(tmp_path / "x") == expected


@quick
@given(st.integers(0, 10**9), st.sampled_from(["torch", "stored", "streamed and deflated", "legacy"]))
def test_damage_anywhere_crashes_nothing_and_what_is_written_loads(tmp_path_factory, seed, kind):
    chance = random.Random(seed)
    data = bytearray(whole(kind)[: chance.randrange(1, len(whole(kind)) + 1)])
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(data))
        data[at : at + chance.choice((1, 1, 4, 40))] = chance.randbytes(1)
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "x.pth").write_bytes(data)
    try:
        result = salvage_file(folder / "x.pth", SalvageOptions(output=folder / "out.pth"))
    except (FileError, UserError):
        return
    if result.output is not None:
        torch.load(result.output, weights_only=True)


def test_payload_bytes_that_look_like_archive_structure_do_not_end_it(tmp_path):
    inner = np.frombuffer(whole("torch"), dtype=np.uint8).copy()
    torch.save({"a": torch.from_numpy(inner), "b": torch.ones(3)}, stream := io.BytesIO())
    data = stream.getvalue()
    for length in range(len(data) - 400, len(data), 7):
        (tmp_path / "x").write_bytes(data[:length])
        assert recovered(tmp_path / "x")["a"] == whole("torch")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_torchscript_archive_without_its_directory_gives_back_its_tensors(tmp_path):
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).eval()
    torch.jit.trace(network, torch.zeros(2, 3)).save(tmp_path / "x.pt")
    data = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(data[: data.index(b"PK\x01\x02")])
    loaded = torch.load(salvage_file(tmp_path / "x.pt").output, weights_only=True)
    assert {n: bits(t) for n, t in loaded.items()} == {n: bits(t) for n, t in network.state_dict().items()}


# The file that is written


@pytest.mark.parametrize("kind", ["torch", "safetensors", "legacy"])
def test_what_is_written_loads_and_keeps_names(tmp_path, kind):
    data = whole(kind)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(data[: min(data.index(bits(WEIGHT)) + 160, len(data) - 1)])
    result = salvage_file(cut, SalvageOptions(output=tmp_path / "out.safetensors"))
    loaded = safetensors.torch.load_file(result.output)
    assert set(loaded) == set(result.recovered)
    assert {name: bits(tensor) for name, tensor in loaded.items()}.items() <= {
        n: bits(t) for n, t in FLAT.items()
    }.items()
    assert result.problem.startswith("The file is cut off")
    assert set(result.recovered) | {each.path for each in result.lost} == set(FLAT)


def test_a_torch_file_keeps_containers_and_ties(tmp_path):
    data = whole("torch")
    (tmp_path / "cut.pth").write_bytes(data[: data.index(b"PK\x01\x02")])
    result = salvage_file(tmp_path / "cut.pth")
    assert result.output == tmp_path / "cut_SALVAGED.pth"
    loaded = torch.load(result.output, weights_only=True, mmap=True)
    assert bits(loaded["optimizer"]["state.0.exp_avg"]) == bits(FLAT["optimizer.state.0.exp_avg"])
    assert loaded["model"]["tied"].data_ptr() == loaded["model"]["also tied"].data_ptr()
    assert (result.optimizers, [s.dotted for s in result.scalars][-1]) == (("optimizer",), "iteration")


def test_a_training_checkpoint_cut_in_the_middle_gives_back_the_model(tmp_path):
    checkpoint = checkpoints.training_checkpoint()
    data = checkpoints.save(checkpoint, tmp_path / "run.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[:300_000])
    result = salvage_file(tmp_path / "cut.pth")
    network = checkpoints.Network()
    network.load_state_dict(torch.load(result.output, weights_only=True)["model_state_dict"])
    assert bits(network.head.bias) == bits(checkpoint["model_state_dict"]["head.bias"])
    assert all(each.path.startswith("optimizer_state_dict") for each in result.lost)


def test_a_whole_file_is_recovered_as_a_whole(tmp_path):
    source = checkpoints.save(checkpoints.training_checkpoint(), tmp_path / "run.pth")
    result = salvage_file(source)
    assert (result.problem, result.lost) == ("", ())
    assert result.nbytes == sum(t.nbytes for t in _tensors(checkpoints.training_checkpoint()))


def _tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)


# Checksums


def test_a_tensor_whose_checksum_is_wrong_is_lost_unless_it_is_to_be_kept(tmp_path):
    bad_files.with_flipped_bit(tmp_path / "x.pth")
    result = salvage_file(tmp_path / "x.pth")
    assert [(each.path, each.reason) for each in result.lost] == [
        ("a.weight", "the checksum of its record x/data/0 is wrong")
    ]
    assert result.output is None
    kept = salvage_file(tmp_path / "x.pth", SalvageOptions(keep_suspect=True))
    assert (kept.recovered, kept.suspect, kept.lost) == (("a.weight",), ("a.weight",), ())


@pytest.mark.parametrize("kind", ["torch", "streamed"])
def test_checksums_are_compared_in_a_cut_file_too(tmp_path, kind):
    data = bytearray(whole(kind))
    data[data.index(bits(WEIGHT)) + 1] ^= 1
    (tmp_path / "x.pth").write_bytes(data[: data.index(b"PK\x01\x02")])
    lost = {each.path for each in salvage_file(tmp_path / "x.pth").lost}
    assert lost == {"model.tied", "model.also tied", "model.front", "model.half"}


@pytest.mark.parametrize("cut", [False, True])
def test_a_compressed_record_with_a_wrong_checksum_is_lost(tmp_path, cut):
    data = bytearray(whole("deflated"))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        info = max(archive.infolist(), key=lambda info: info.file_size * ("/data/" in info.filename))
    for place in (info.header_offset + 14, data.index(info.CRC.to_bytes(4, "little"), data.index(b"PK\x01\x02"))):
        data[place] ^= 1
    end = data.index(b"PK\x01\x02") if cut else len(data)
    (tmp_path / "x.pth").write_bytes(data[:end])
    assert "model.tied" in {each.path for each in salvage_file(tmp_path / "x.pth").lost}


@pytest.mark.parametrize("kind", ["torch", "stored"])
def test_nothing_is_trusted_that_a_changed_index_describes(tmp_path, kind):
    data = whole(kind)
    assert data.count(b"a.weight") == 1
    (tmp_path / "x.pth").write_bytes(data.replace(b"a.weight", b"b.weight"))
    result = salvage_file(tmp_path / "x.pth")
    assert (result.output, len(result.lost)) == (None, len(FLAT))
    assert {each.reason for each in result.lost} == {
        "the checksum of data.pkl, which says what it is and where, is wrong"
    }


# What cannot be recovered, and where it goes


@pytest.mark.parametrize("length", [30, 200, 700])
def test_an_index_that_is_cut_is_an_error_that_says_so(tmp_path, length):
    (tmp_path / "x.pth").write_bytes(whole("torch")[:length])
    with pytest.raises(FileError, match=r"x.pth: What is left .* ends before or inside data.pkl"):
        salvage_file(tmp_path / "x.pth")


def test_an_index_that_would_have_come_last_is_an_error_that_says_so(tmp_path):
    data = whole("index last")
    (tmp_path / "x.pth").write_bytes(data[: data.index(b"/data.pkl")])
    with pytest.raises(FileError, match=r"ends before or inside data.pkl"):
        salvage_file(tmp_path / "x.pth")


def test_a_legacy_file_that_loses_its_thread_gives_back_what_comes_before(tmp_path):
    data = bytearray(whole("legacy"))
    lost_from = data.index(bits(WEIGHT))
    data[lost_from - 8] += 1  # its count of elements; torch puts storages in the order of their addresses
    (tmp_path / "x.pth").write_bytes(data)
    result = salvage_file(tmp_path / "x.pth", SalvageOptions(output=tmp_path / "out.pth"))
    before = {name for name, tensor in FLAT.items() if -1 < data.find(bits(tensor)) < lost_from}
    assert set(result.recovered) == before
    assert "contradicts itself" in result.problem


def test_legacy_pickles_that_are_cut_are_an_error(tmp_path):
    (tmp_path / "x.pth").write_bytes(whole("legacy")[:200])
    with pytest.raises(FileError, match="inside its pickles"):
        salvage_file(tmp_path / "x.pth")


def test_a_safetensors_header_that_is_cut_is_an_error(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(whole("safetensors")[:100])
    with pytest.raises(FileError, match="a header of"):
        salvage_file(tmp_path / "x.safetensors")


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n" + bytes(16)])
def test_a_file_of_another_kind_is_an_error(tmp_path, data):
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(FileError, match=r"x\.pth: "):
        salvage_file(tmp_path / "x.pth")


def test_an_existing_output_is_refused_unless_forced(tmp_path):
    source = checkpoints.save({"w": torch.ones(2)}, tmp_path / "x.pth")
    (tmp_path / "x_SALVAGED.pth").write_text("mine")
    with pytest.raises(UserError, match="exists"):
        salvage_file(source)
    assert salvage_file(source, SalvageOptions(force=True)).output


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_a_full_disk_or_an_interrupt_leaves_nothing(tmp_path, error):
    source = checkpoints.save(checkpoints.training_checkpoint(), tmp_path / "x.pth")

    def stop(_done, _total):
        raise error

    with pytest.raises(type(error)):
        salvage_file(source, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]
