"""`torchmend unfix`: the original comes back, or the message says why not."""

import errno
import hashlib
import os

import pytest

import checkpoints
from checkpoints import torchmend
from torchmend.doctor import undoing


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Stand in a folder with one damaged checkpoint."""
    monkeypatch.chdir(tmp_path)
    checkpoints.save(checkpoints.nan_channels(checkpoints.training_checkpoint()), tmp_path / "run.pth")
    return tmp_path


@pytest.fixture
def fixed(folder):
    """Stand in a folder with a damaged checkpoint and its repaired copy."""
    assert torchmend("fix", "run.pth").rc == 0
    return folder


def test_the_original_comes_back_and_it_exits_0(fixed):
    outcome = torchmend("unfix", "run_FIXED.pth")
    assert (outcome.rc, outcome.stderr) == (0, "")
    assert outcome.stdout == "Wrote run_ORIGINAL.pth: the original, bit for bit (20 bytes put back)\n"
    assert digest(fixed / "run_ORIGINAL.pth") == digest(fixed / "run.pth")


def test_the_original_goes_where_it_was_asked_to_go(fixed):
    assert torchmend("unfix", "run_FIXED.pth", "-o", "back.pth").rc == 0
    assert digest(fixed / "back.pth") == digest(fixed / "run.pth")


def test_in_place_leaves_the_folder_as_it_was_but_for_the_backup(folder):
    before = digest(folder / "run.pth")
    torchmend("fix", "run.pth", "--in-place")
    outcome = torchmend("unfix", "run.pth", "--in-place")
    assert outcome.rc == 0
    assert outcome.stdout.endswith("Removed run.repair.json and run.repair.bin\n")
    assert digest(folder / "run.pth") == before
    assert names(folder) == ["run.pth", "run.pth.bak"]


def test_in_place_and_output_exclude_each_other(fixed):
    outcome = torchmend("unfix", "run_FIXED.pth", "--in-place", "-o", "x.pth")
    assert outcome.rc == 2
    assert "exclude each other" in outcome.stderr


def test_an_existing_output_is_refused_unless_forced(fixed):
    (fixed / "run_ORIGINAL.pth").write_text("mine")
    outcome = torchmend("unfix", "run_FIXED.pth")
    assert outcome.rc == 2
    assert outcome.stderr == "torchmend: run_ORIGINAL.pth exists. Use --force to replace it.\n"
    assert torchmend("unfix", "run_FIXED.pth", "--force").rc == 0


def test_a_file_without_a_record_exits_2_and_the_message_says_what_is_needed(folder):
    outcome = torchmend("unfix", "run.pth")
    assert outcome.rc == 2
    assert outcome.stderr.startswith("torchmend: There is no record run.repair.json")


def test_a_file_that_was_changed_since_exits_2(fixed):
    with (fixed / "run_FIXED.pth").open("ab") as file:
        file.write(b"more")
    outcome = torchmend("unfix", "run_FIXED.pth")
    assert outcome.rc == 2
    assert "was changed or replaced after the repair" in outcome.stderr


@pytest.mark.parametrize("options", [(), ("--in-place",)])
@pytest.mark.parametrize("step", ["_put_back", "put_in_place"])
def test_a_full_disk_exits_2_and_leaves_all_as_it_was(fixed, monkeypatch, step, options):
    def disk_is_full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = {path: digest(path) for path in fixed.iterdir()}
    monkeypatch.setattr(undoing, step, disk_is_full)
    outcome = torchmend("unfix", "run_FIXED.pth", *options)
    assert outcome.rc == 2
    assert outcome.stderr.startswith("torchmend: No space left on device. ")
    assert {path: digest(path) for path in fixed.iterdir()} == before
