"""`torchmend convert`: what it says and what it returns."""

import json
import subprocess
import sys

import pytest
import torch

import bad_files
import checkpoints
from checkpoints import torchmend


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Stand in a folder with one checkpoint."""
    monkeypatch.chdir(tmp_path)
    checkpoints.save(checkpoints.training_checkpoint(), tmp_path / "run.pth")
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_numbers_nearest_to_the_root_are_named_among_what_was_left_behind(folder):
    outcome = torchmend("convert", "run.pth", "run.safetensors")
    assert (outcome.rc, outcome.stderr) == (0, "")
    assert "Left behind: 38 numbers and texts (iteration, best_psnr, " in outcome.stdout


def test_the_json_report_tells_what_was_written(folder):
    outcome = torchmend("convert", "run.pth", "out", "--max-shard-size", "100kB", "--format", "json")
    (result,) = json.loads(outcome.stdout)["results"]
    assert (result["to"], result["output"]) == ("sharded safetensors", "out/model.safetensors.index.json")
    assert result["refused"] == []
    assert len(result["files"]) == len(names(folder / "out")) > 2


def test_tensors_that_share_elements_are_named(folder):
    weight = torch.ones(3)
    checkpoints.save({"a": weight, "b": weight}, folder / "tied.pth")
    outcome = torchmend("convert", "tied.pth", "tied.safetensors")
    assert "written for each of them:\n  b, shared with a\n" in outcome.stdout


def test_a_tensor_that_cannot_be_written_exits_1_and_writes_nothing(folder):
    checkpoints.save({"w": torch.ones(2), "c": torch.ones(2, dtype=torch.complex128)}, folder / "c.pth")
    outcome = torchmend("convert", "c.pth", "c.safetensors")
    assert outcome.rc == 1
    assert "c  32 B: safetensors has no element type complex128" in outcome.stdout
    assert outcome.stdout.endswith("Nothing was written; --allow-partial writes the other 1.\n")
    assert names(folder) == ["c.pth", "run.pth"]
    assert torchmend("convert", "c.pth", "c.safetensors", "--allow-partial").rc == 1
    assert names(folder) == ["c.pth", "c.safetensors", "run.pth"]


def test_names_in_a_hostile_file_do_not_reach_the_terminal_as_they_are(folder):
    checkpoints.save({"a\x1b[2J\nb": torch.ones(2, dtype=torch.complex128)}, folder / "c.pth")
    assert "\x1b" not in torchmend("convert", "c.pth", "c.safetensors").stdout


def test_a_hostile_file_comes_out_without_its_pickle(folder):
    bad_files.hostile(folder / "evil.pth")
    assert torchmend("convert", "evil.pth", "clean.pth").rc == 0
    assert torch.load("clean.pth", weights_only=True)
    assert names(folder) == ["clean.pth", "evil.pth", "run.pth"]


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.argv = ["torchmend", *sys.argv[2:]]
from torchmend.cli.main import run
run()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("output", ["out.pth", "out.safetensors", "out"])
@pytest.mark.parametrize("limit", [0, 100, 30_000])
def test_a_file_that_cannot_grow_leaves_no_trace_and_exits_2(folder, output, limit):
    command = [sys.executable, "-c", LIMITED, str(limit), "convert", "run.pth", output]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "File too large" in done.stderr
    assert names(folder) == ["run.pth"]
