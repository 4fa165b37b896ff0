"""The record on disk: what it holds, and that nonsense in it is named and harms nothing."""

import hashlib
import json

import pytest
import torch

from torchmend.doctor.fixing import fix_file
from torchmend.doctor.recording import read_undo
from torchmend.facts.errors import UserError


@pytest.fixture
def repaired(tmp_path):
    path = tmp_path / "run.pth"
    torch.save({"b.running_mean": torch.tensor([0.5, float("nan"), 0.7]), "b.running_var": torch.ones(3)}, path)
    return fix_file(path)


def altered(record, change):
    report = json.loads(record.read_text())
    change(report["results"][0])
    record.write_text(json.dumps(report))


def test_the_record_holds_ranges_hashes_and_sizes_of_both_files(repaired, tmp_path):
    undo = json.loads(repaired.record.read_text())["results"][0]["undo"]
    source, result = (tmp_path / "run.pth").read_bytes(), repaired.output.read_bytes()
    sidecar = (tmp_path / "run_FIXED.repair.bin").read_bytes()
    assert undo["sidecar"] == "run_FIXED.repair.bin"
    assert undo["sidecar_sha256"] == hashlib.sha256(sidecar).hexdigest()
    (file,) = undo["files"]
    assert file["name"] == ""
    for side, data in (("source", source), ("result", result)):
        assert file[side]["bytes"] == len(data)
        assert file[side]["sha256"] == hashlib.sha256(data).hexdigest()
    assert sidecar == b"".join(source[offset : offset + length] for offset, length in file["ranges"])


def test_the_record_keeps_diagnosis_plan_and_tool(repaired):
    report = json.loads(repaired.record.read_text())
    assert report["tool"]["name"] == "torchmend"
    assert report["results"][0]["findings"]
    assert report["results"][0]["repair"]["edits"][0]["rung"]


def test_each_range_stands_on_one_line(repaired):
    lines = repaired.record.read_text().splitlines()
    first = read_undo(repaired.record).files[0].splices[0]
    assert any(line.strip().rstrip(",") == str([first.offset, first.length]) for line in lines)


def test_a_record_of_an_older_version_is_told_from_a_damaged_one(repaired):
    altered(repaired.record, lambda result: result.pop("undo"))
    with pytest.raises(UserError, match="an older version of torchmend wrote it"):
        read_undo(repaired.record)


def test_a_missing_record_is_an_error_that_says_what_to_name(tmp_path):
    with pytest.raises(UserError, match=r"There is no record .*x\.repair\.json"):
        read_undo(tmp_path / "x.repair.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"results": []}', "[" * 100_000, '{"results": [{"undo": 3}]}'])
def test_a_malformed_record_is_named(tmp_path, text):
    record = tmp_path / "x.repair.json"
    record.write_text(text)
    with pytest.raises(UserError, match=r"x\.repair\.json is no record of a repair, or it is damaged"):
        read_undo(record)


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"\x80abc"])
def test_a_record_that_is_no_text_is_named(tmp_path, data):
    record = tmp_path / "x.repair.json"
    record.write_bytes(data)
    with pytest.raises(UserError, match="is no record"):
        read_undo(record)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sidecar", "../elsewhere.bin"),
        ("sidecar", "/etc/passwd"),
        ("sidecar", "..\\elsewhere.bin"),
        ("sidecar", ""),
        ("sidecar", ".."),
        ("sidecar_sha256", "00"),
        ("files", []),
        ("files", None),
    ],
)
def test_nonsense_in_the_record_is_refused(repaired, key, value):
    altered(repaired.record, lambda result: result["undo"].update({key: value}))
    with pytest.raises(UserError, match="is no record of a repair, or it is damaged"):
        read_undo(repaired.record)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "../elsewhere.pth"),
        ("name", "/etc/passwd"),
        ("name", "C:elsewhere.pth"),
        ("name", None),
        ("ranges", [[0, 1 << 40]]),
        ("ranges", [[1 << 40, 1]]),
        ("ranges", [[-4, 4]]),
        ("ranges", [[0, -4]]),
        ("ranges", [[100, 4], [50, 4]]),
        ("ranges", [[0, 8], [4, 8]]),
        ("ranges", [[0, 1.5]]),
        ("ranges", [[True, 4]]),
        ("ranges", [[0]]),
        ("ranges", [[0, 4, 8]]),
        ("ranges", [[0, 1, 1, 1]]),
        ("ranges", None),
        ("source", {"path": "x", "bytes": 1, "sha256": "0" * 64}),
        ("result", None),
    ],
)
def test_nonsense_about_a_file_in_the_record_is_refused(repaired, key, value):
    altered(repaired.record, lambda result: result["undo"]["files"][0].update({key: value}))
    with pytest.raises(UserError, match="is no record of a repair, or it is damaged"):
        read_undo(repaired.record)
