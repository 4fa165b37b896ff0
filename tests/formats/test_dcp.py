"""Distributed checkpoints: pieces under their global names, metadata that lies, and nothing outside the folder."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from checkpoints import called
from folders import alone, distributed, state
from torchmend.doctor.diagnosing import diagnose_file
from torchmend.doctor.file_source import FileSource
from torchmend.doctor.fixing import fix_file
from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.facts.tensors import Role
from torchmend.formats.registry import read_contents


@pytest.fixture(scope="module")
def spread(tmp_path_factory) -> Path:
    """Give a folder in which two processes saved tensors that are spread over them."""
    folder = tmp_path_factory.mktemp("spread")
    script = Path(__file__).parents[1] / "distributed_save.py"
    subprocess.run([sys.executable, "-W", "ignore", str(script), str(folder)], check=True, capture_output=True)
    return folder


def test_pieces_have_their_global_name_and_place(spread):
    whole = torch.load(spread / "whole.pt")["model"]["conv.weight"]
    with FileSource(spread / "torch") as source:
        pieces = {ref.name: source.vector(ref) for ref in source.refs if ref.name.startswith("conv.weight")}
    assert {name: values.tolist() for name, values in pieces.items()} == {
        "conv.weight[0:4, 0:6]": whole[:4].flatten().double().tolist(),
        "conv.weight[4:8, 0:6]": whole[4:].flatten().double().tolist(),
    }


def test_pieces_have_the_roles_of_their_wholes(spread):
    with FileSource(spread / "torch") as source:
        roles = {ref.path: ref.role for ref in source.refs}
    assert roles["model.conv.weight[4:8, 0:6]"] is Role.WEIGHT
    assert roles["optimizer.state.conv.weight.exp_avg_sq[4:8, 0:6]"] is Role.SECOND_MOMENT
    assert roles["optimizer.state.conv.weight.step"] is Role.OPTIMIZER_STEP


def test_numbers_beside_the_tensors_are_found(spread):
    scalars = {scalar.dotted: scalar.value for scalar in read_contents(spread / "torch").scalars}
    assert (scalars["iteration"], scalars["optimizer.param_groups.0.lr"]) == (7, 0.1)


def test_a_piece_is_repaired_and_torch_loads_the_whole(spread):
    result = fix_file(spread / "torch")
    assert result.succeeded
    before = torch.load(spread / "whole.pt")
    loaded = {
        "model": {name: torch.zeros_like(tensor) for name, tensor in before["model"].items()},
        "optimizer": {"state": {"conv.weight": {"exp_avg_sq": torch.ones(8, 6)}}},
    }
    with alone():
        dcp.load(loaded, checkpoint_id=result.output, no_dist=True)
    moment, expected = loaded["optimizer"]["state"]["conv.weight"]["exp_avg_sq"], before["exp_avg_sq"]
    expected[5, 2] = 0.0
    assert torch.equal(moment, expected)
    assert torch.equal(loaded["model"]["conv.weight"], before["model"]["conv.weight"])
    assert loaded["model"]["bn.running_mean"].isfinite().all()


def test_the_safetensors_mode_is_read_and_repaired(spread):
    names = {ref.path for ref in diagnose_file(spread / "safetensors").refs}
    assert names == {"conv.weight[0:4, 0:6]", "conv.weight[4:8, 0:6]", "bn.running_mean", "bn.running_var"}
    result = fix_file(spread / "safetensors")
    assert result.after is not None
    assert result.after.healthy


# Metadata that lies


class Shown:
    """Changes a metadata file through torch's own classes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".metadata"
        self.metadata = pickle.loads(self.path.read_bytes())

    def entry(self, name: str):
        return next(info for index, info in self.metadata.storage_data.items() if index.fqn == name)

    def save(self) -> None:
        self.path.write_bytes(pickle.dumps(self.metadata, protocol=4))


@pytest.fixture
def folder(tmp_path) -> Path:
    return distributed(tmp_path / "step", state())


def unchecked(folder: Path) -> dict[str, str]:
    return {f.place: f.message for f in diagnose_file(folder).findings if f.code.means_unchecked}


@pytest.mark.parametrize("name", ["../x.distcp", "/etc/passwd", ""])
def test_a_file_outside_the_folder_is_refused(folder, name):
    shown = Shown(folder)
    shown.entry("model.conv.weight").relative_path = name
    shown.save()
    with pytest.raises(FileError, match="names a file outside its folder"):
        read_contents(folder)


@pytest.mark.parametrize(("field", "value"), [("offset", 1 << 40), ("length", 1 << 40), ("length", 10)])
def test_an_item_that_lies_elsewhere_is_unchecked_and_the_others_are_not(folder, field, value):
    shown = Shown(folder)
    setattr(shown.entry("model.conv.weight"), field, value)
    shown.save()
    assert "model.conv.weight" in unchecked(folder)
    assert "model.head.weight" not in unchecked(folder) or field == "length"


def test_overlapping_items_are_an_error(folder):
    shown = Shown(folder)
    first, second = shown.entry("model.conv.weight"), shown.entry("model.head.weight")
    second.offset, second.length = first.offset + 1, first.length
    shown.save()
    codes = {finding.code for finding in diagnose_file(folder).findings}
    assert Code.OVERLAPPING in codes


def test_another_shape_than_the_metadata_says_is_unchecked(folder):
    shown = Shown(folder)
    first, second = shown.entry("model.conv.weight"), shown.entry("model.head.weight")
    for field in ("relative_path", "offset", "length"):
        one, other = getattr(first, field), getattr(second, field)
        setattr(first, field, other)
        setattr(second, field, one)
    shown.save()
    assert "a tensor of shape [2, 4], where [4, 6] is expected" in unchecked(folder)["model.conv.weight"]


def test_a_missing_file_leaves_its_items_unchecked(folder):
    next(folder.glob("*.distcp")).unlink()
    assert "cannot be read: No such file." in unchecked(folder)["model.conv.weight"]


@pytest.mark.parametrize("data", [b"", b"\x80\x04N.", b"\x80\x04}.", b"nonsense"])
def test_metadata_that_is_none_is_an_error(folder, data):
    (folder / ".metadata").write_bytes(data)
    with pytest.raises(FileError):
        read_contents(folder)


def test_compressed_items_are_said_to_be_unchecked(folder):
    shown = Shown(folder)
    shown.entry("model.conv.weight").transform_descriptors = ["zstd"]
    shown.save()
    assert "went through zstd" in unchecked(folder)["model.conv.weight"]


def test_a_torch_file_beside_the_items_is_read_too(folder):
    torch.save(
        {"lr_scheduler": {"last_epoch": 3}, "note.weight": torch.tensor([1.0, float("nan")])}, folder / "meta.pt"
    )
    diagnosis = diagnose_file(folder)
    assert [finding.place for finding in diagnosis.damaged] == ["meta.note.weight"]


def test_nothing_that_the_metadata_names_is_called(folder, tmp_path):
    class Hostile:
        def __reduce__(self):
            return Path.mkdir, (tmp_path / "ran",)

    shown = Shown(folder)
    shown.metadata.planner_data["x"] = Hostile()
    shown.save()
    assert any("mkdir" in name for name in called(read_contents(folder)))
    assert not (tmp_path / "ran").exists()
