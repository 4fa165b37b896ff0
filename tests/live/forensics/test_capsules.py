"""Capsules: whole or not there at all, few, small, and safe to read."""

import json
from pathlib import Path

import pytest
import torch

import torchmend
from live.forensics.faults import FAULTS, Fault, mean_loss, plain_net, root_net, with_row
from live.forensics.runs import incident_of, into
from torchmend.live.forensics import capsules


def capsule(tmp_path, name="outlier", **options):
    _, guard = into(FAULTS[name], capsules=torchmend.Capsules(folder=tmp_path / "capsules", **options))
    return Path(incident_of(guard).capsule)


def test_it_is_json_and_safetensors(tmp_path):
    folder = capsule(tmp_path)
    names = sorted(each.name for each in folder.iterdir())
    assert names == ["batch.safetensors", "capsule.json", "incident.txt", "state.safetensors"]
    record = json.loads((folder / "capsule.json").read_text())
    assert {"torch", "numpy", "python", "torchmend"} <= record["versions"].keys()
    assert "Incident at step 2" in (folder / "incident.txt").read_text()


def test_nothing_is_left_of_one_that_could_not_be_written(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(capsules, "write_tensors", full)
    _, guard = into(FAULTS["outlier"], capsules=tmp_path / "capsules")
    assert incident_of(guard).capsule == ""
    assert "No capsule was written: [Errno 28] No space left on device" in caplog.text
    assert not list((tmp_path / "capsules").iterdir())


def test_a_batch_that_is_too_large_is_not_written(tmp_path, caplog):
    _, guard = into(FAULTS["outlier"], capsules=torchmend.Capsules(folder=tmp_path / "c", most_bytes=16))
    assert incident_of(guard).capsule == ""
    assert "the batch alone takes more than most_bytes" in caplog.text
    assert not list((tmp_path / "c").iterdir())


def test_a_run_writes_only_so_many(tmp_path):
    model = root_net()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    options = torchmend.Capsules(folder=tmp_path / "c", most=1)
    with torchmend.Guard(model, optimizer, capsules=options) as guard:
        for value in (0.0, float("nan")):
            for loss in (lambda made: made, lambda made: made / 0):
                optimizer.zero_grad()
                made = loss(mean_loss(model, with_row(value)(True)))
                guard.observe(made)
                made.backward()
                optimizer.step()
    assert len(list((tmp_path / "c").iterdir())) == 1


def test_names_that_are_taken_are_left_alone(tmp_path):
    first, second = capsule(tmp_path), capsule(tmp_path)
    assert (first.name, second.name) == ("step_000002", "step_000002_2")


def test_nothing_is_written_unless_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    into(FAULTS["outlier"])
    assert not list(tmp_path.iterdir())


def test_what_json_has_no_words_for_is_said_at_the_replay(tmp_path):
    class Box:
        def __init__(self, values):
            self.values = values

    class Opens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain_net()

        def forward(self, box):
            return self.inner(box.values)

    fault = Fault(Opens, lambda bad: Box(with_row(1e30)(bad)), mean_loss, "module", "inner.1")
    _, guard = into(fault, capsules=tmp_path / "c")
    assert incident_of(guard).found.module == "inner.1"
    with pytest.raises(torchmend.UserError, match=r"The batch holds a .*Box, which no capsule keeps"):
        torchmend.replay(incident_of(guard).capsule, Opens())


# Reading


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(torchmend.UserError, match=r"is no capsule: it has no capsule\.json"):
        torchmend.replay(tmp_path, plain_net())
    with pytest.raises(torchmend.UserError, match="There is no folder"):
        torchmend.replay(tmp_path / "nowhere", plain_net())


@pytest.mark.parametrize("name", ["batch.safetensors", "state.safetensors", "capsule.json"])
def test_a_cut_file_is_told(tmp_path, name):
    folder = capsule(tmp_path)
    (folder / name).write_bytes((folder / name).read_bytes()[:40])
    with pytest.raises(torchmend.FileError, match=rf"The capsule is damaged: {name} cannot be read"):
        torchmend.replay(folder, plain_net())


@pytest.mark.parametrize("name", ["batch.safetensors", "state.safetensors"])
def test_a_missing_file_is_told(tmp_path, name):
    folder = capsule(tmp_path)
    (folder / name).unlink()
    with pytest.raises(torchmend.FileError, match=f"{name} is missing"):
        torchmend.replay(folder, plain_net())


def edited(folder, **changes):
    record = json.loads((folder / "capsule.json").read_text())
    (folder / "capsule.json").write_text(json.dumps(record | changes))
    return folder


def test_a_later_format_is_refused(tmp_path):
    with pytest.raises(torchmend.UserError, match="written by a later torchmend"):
        torchmend.replay(edited(capsule(tmp_path), format=99), plain_net())


@pytest.mark.parametrize(
    "value", [{"tensor": "tensor_99"}, {"run": "rm"}, {"a": 1, "b": 2}, {"dtype": "load"}, {"list": 3}]
)
def test_json_that_is_no_tree_is_told(tmp_path, value):
    folder = capsule(tmp_path)
    record = json.loads((folder / "capsule.json").read_text())
    record["calls"][0]["arguments"] = {"tuple": [value]}
    edited(folder, calls=record["calls"])
    with pytest.raises(torchmend.FileError, match="The capsule is damaged"):
        torchmend.replay(folder, plain_net())


@pytest.mark.parametrize("key", ["calls", "incident", "models", "settings"])
def test_json_that_lacks_or_spoils_a_part_is_told(tmp_path, key):
    folder = edited(capsule(tmp_path), **{key: "spoiled"})
    with pytest.raises(torchmend.FileError, match="The capsule is damaged"):
        torchmend.replay(folder, plain_net())


def test_complex_and_half_tensors_come_back_to_the_bit(tmp_path):
    from torchmend.live.forensics.stored import read_tensors, write_tensors

    tensors = {
        "spectrum": torch.fft.rfft(torch.randn(3, 8)),
        "half": torch.randn(4).half(),
        "turned": torch.randn(3, 4).t(),
        "one": torch.tensor(2.5, dtype=torch.bfloat16),
        "flags": torch.tensor([True, False]),
        "none": torch.zeros(0, 3),
    }
    assert write_tensors(tmp_path / "x.safetensors", tensors) == []
    found = read_tensors(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], each) and found[name].dtype == each.dtype for name, each in tensors.items())


def test_tensors_without_a_place_are_named(tmp_path):
    from torchmend.live.forensics.stored import write_tensors

    assert write_tensors(tmp_path / "x.safetensors", {"sparse": torch.eye(2).to_sparse()}) == ["sparse"]


@pytest.mark.parametrize("name", ["most_bytes", "most"])
def test_options_without_a_meaning_are_refused(name):
    with pytest.raises(torchmend.UserError, match=f"{name} is 0"):
        torchmend.Capsules(folder="x", **{name: 0})
