"""`torchmend salvage`: what it says and what it returns."""

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
    """Stand in a folder with a whole checkpoint and one that was cut in the middle of its optimizer's state."""
    monkeypatch.chdir(tmp_path)
    whole = checkpoints.save(checkpoints.training_checkpoint(), tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[:300_000])
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_cut_file_exits_1_and_what_is_lost_is_listed(folder):
    outcome = torchmend("salvage", "cut.pth", "-o", "out.pth")
    assert (outcome.rc, outcome.stderr) == (1, "")
    assert "Lost: 14 tensors, 298.0 kB\n" in outcome.stdout
    assert (
        "  optimizer_state_dict.state.9.exp_avg  256 B: its storage data/49 is not in the archive\n" in outcome.stdout
    )
    assert "Wrote out.pth (torch zip): 43 tensors, 268.1 kB\n" in outcome.stdout
    assert len(torch.load("out.pth", weights_only=True)["model_state_dict"]) == 21


def test_a_whole_file_exits_0(folder):
    outcome = torchmend("salvage", "whole.pth", "-o", "out.safetensors")
    assert outcome.rc == 0
    assert "57 tensors, 566.1 kB, all there are\n" in outcome.stdout
    assert names(folder) == ["cut.pth", "out.safetensors", "whole.pth"]


def test_a_file_that_lacks_only_its_directory_exits_0(folder):
    data = (folder / "whole.pth").read_bytes()
    (folder / "cut.pth").write_bytes(data[: data.index(b"PK\x01\x02")])
    assert torchmend("salvage", "cut.pth").rc == 0


def test_the_json_report_names_every_tensor(folder):
    (result,) = json.loads(torchmend("salvage", "cut.pth", "--format", "json").stdout)["results"]
    assert result["output"] == "cut_SALVAGED.pth"
    assert (len(result["recovered"]), len(result["lost"])) == (43, 14)
    assert result["problem"].startswith("The file is cut off")
    assert {scalar["path"][0] for scalar in result["scalars"]} >= {"iteration", "best_psnr"}


def test_the_report_says_that_parameter_groups_are_not_written(folder):
    assert "parameter groups of optimizers" in torchmend("salvage", "cut.pth").stdout


def test_a_file_of_which_nothing_can_be_recovered_exits_2_and_writes_nothing(folder):
    bad_files.with_flipped_bit(folder / "flipped.pth")
    outcome = torchmend("salvage", "flipped.pth")
    assert (outcome.rc, outcome.stdout.splitlines()[-1]) == (2, "Nothing could be recovered; no file was written.")
    assert names(folder) == ["cut.pth", "flipped.pth", "whole.pth"]
    assert torchmend("salvage", "flipped.pth", "--keep-suspect").rc == 0


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.argv = ["torchmend", *sys.argv[2:]]
from torchmend.cli.main import run
run()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("limit", [0, 30_000])
def test_a_file_that_cannot_grow_leaves_no_trace_and_exits_2(folder, limit):
    command = [sys.executable, "-c", LIMITED, str(limit), "salvage", "cut.pth"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "File too large" in done.stderr
    assert names(folder) == ["cut.pth", "whole.pth"]
