"""Indexes of sharded checkpoints: what they promise is checked, and where they may lead is bounded."""

import json

import pytest

from folders import sharded, state
from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.formats.registry import read_contents
from torchmend.formats.sharded import claims


def edited(index, change):
    data = json.loads(index.read_text())
    change(data["weight_map"])
    index.write_text(json.dumps(data))
    return index


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/passwd", "C:\\x.safetensors", "..", ""])
def test_a_shard_outside_the_folder_is_refused(tmp_path, name):
    index = edited(sharded(tmp_path / "m", state()), lambda names: names.update({"conv.weight": name}))
    with pytest.raises(FileError, match="names a file outside its folder") as caught:
        read_contents(index)
    assert caught.value.code is Code.OUT_OF_BOUNDS


def test_a_tensor_that_its_shard_lacks_is_absent(tmp_path):
    index = edited(
        sharded(tmp_path / "m", state()),
        lambda names: names.update({"extra.weight": "model-00001-of-00002.safetensors"}),
    )
    (absent,) = [tensor for tensor in read_contents(index).tensors if tensor.absent]
    assert (absent.name, absent.absent) == (
        "extra.weight",
        "its shard model-00001-of-00002.safetensors does not hold it",
    )


def test_a_tensor_that_the_index_does_not_name_is_noted(tmp_path):
    index = edited(sharded(tmp_path / "m", state()), lambda names: names.pop("head.weight"))
    (oddity,) = read_contents(index).oddities
    assert (oddity.code, oddity.detail) == (Code.UNREFERENCED, "the index does not name head.weight")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "[" * 100_000])
def test_other_json_is_no_index(tmp_path, text):
    (tmp_path / "x.index.json").write_text(text)
    assert claims(tmp_path) == []


def test_an_index_that_leads_to_a_device_is_not_read(tmp_path):
    (tmp_path / "x.index.json").symlink_to("/dev/zero")
    assert claims(tmp_path) == []


def test_no_shard_at_all_is_an_error(tmp_path):
    index = sharded(tmp_path / "m", state())
    for shard in (tmp_path / "m").glob("*.safetensors"):
        shard.unlink()
    with pytest.raises(FileError, match="None of the 2 shards can be read"):
        read_contents(index)


def test_an_index_that_names_nothing_is_an_error(tmp_path):
    index = edited(sharded(tmp_path / "m", state()), dict.clear)
    with pytest.raises(FileError, match="there are none"):
        read_contents(index)
