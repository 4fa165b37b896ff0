"""`python diagnose_and_fix.py`: the lines, the files and the exit codes of the classic recipe."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

import checkpoints
from checkpoints import diagnose_and_fix
from torchmend.doctor import fixing

SCRIPT = Path(__file__).parents[2] / "diagnose_and_fix.py"


@pytest.fixture
def damaged(tmp_path, monkeypatch):
    """Give the name of a checkpoint with an infinite running mean in the current folder."""
    monkeypatch.chdir(tmp_path)
    checkpoints.save(checkpoints.infinite_mean(checkpoints.training_checkpoint()), tmp_path / "damaged.pth")
    return Path("damaged.pth")


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Give the name of a checkpoint with a damaged weight in the current folder."""
    monkeypatch.chdir(tmp_path)
    checkpoints.save(checkpoints.nan_weight(checkpoints.training_checkpoint()), tmp_path / "refused.pth")
    return Path("refused.pth")


@pytest.mark.parametrize(
    "line",
    [
        "CORRUPTED [BatchNorm running_mean]: refinement_ffc.scales.0.ffc.local_conv.1.running_mean",
        "  Shape: [64]",
        "  NaN count: 0 / 64",
        "  Inf count: 64 / 64",
        "Total parameters/buffers: 21",
        "Corrupted BatchNorm stats: 1",
        "Corrupted weights/biases: 0",
        "iteration: 12000",
        "best_psnr: 27.5",
    ],
)
def test_the_report_has_the_recipe_s_line(damaged, line):
    assert line in diagnose_and_fix("--checkpoint", damaged).stdout.splitlines()


def test_the_total_is_that_of_the_model_s_state_dict(damaged):
    total = len(checkpoints.state_dict())
    assert f"Total parameters/buffers: {total}\n" in diagnose_and_fix("--checkpoint", damaged).stdout


def test_without_fix_it_exits_1_writes_nothing_and_says_how_to_repair(damaged):
    outcome = diagnose_and_fix("--checkpoint", damaged)
    assert outcome.rc == 1
    assert outcome.stdout.endswith("To repair it: python diagnose_and_fix.py --checkpoint damaged.pth --fix\n")
    assert [path.name for path in Path().iterdir()] == ["damaged.pth"]


def test_fix_writes_a_healthy_copy_and_exits_0(damaged):
    outcome = diagnose_and_fix("--checkpoint", damaged, "--fix")
    assert outcome.rc == 0
    assert outcome.stdout.endswith("Fixed checkpoint saved: damaged_FIXED.pth\n")
    mean = checkpoints.load(Path("damaged_FIXED.pth"))["model_state_dict"][checkpoints.MEAN]
    assert mean.isfinite().all()


def test_reset_writes_the_recipe_s_zeros(damaged):
    diagnose_and_fix("--checkpoint", damaged, "--fix", "--strategy", "reset")
    mean = checkpoints.load(Path("damaged_FIXED.pth"))["model_state_dict"][checkpoints.MEAN]
    assert (mean == 0).all()


def test_an_existing_result_is_kept_unless_forced(damaged):
    Path("damaged_FIXED.pth").write_text("mine")
    assert diagnose_and_fix("--checkpoint", damaged, "--fix").rc == 2
    assert Path("damaged_FIXED.pth").read_text() == "mine"
    assert diagnose_and_fix("--checkpoint", damaged, "--fix", "--force").rc == 0


def test_the_message_about_an_existing_result_names_only_options_that_there_are(damaged):
    Path("damaged_FIXED.pth").write_text("mine")
    message = diagnose_and_fix("--checkpoint", damaged, "--fix").stderr
    assert "--force" in message
    assert " -o " not in message


def test_damaged_weights_are_refused_with_exit_1_and_no_file(refused):
    outcome = diagnose_and_fix("--checkpoint", refused, "--fix")
    assert outcome.rc == 1
    assert "Corrupted weights/biases: 1\n" in outcome.stdout
    assert "refused_FIXED.pth was not written, since something had to be refused." in outcome.stdout
    assert not Path("refused_FIXED.pth").exists()


def test_a_donor_repairs_weights(refused):
    checkpoints.save(checkpoints.training_checkpoint(), Path("donor.pth"))
    assert diagnose_and_fix("--checkpoint", refused, "--fix", "--donor", "donor.pth").rc == 0
    weight = checkpoints.load(Path("refused_FIXED.pth"))["model_state_dict"][checkpoints.CONV_WEIGHT]
    assert weight.equal(checkpoints.state_dict()[checkpoints.CONV_WEIGHT])


def test_a_healthy_file_exits_0_and_nothing_is_written(tmp_path):
    path = checkpoints.save(checkpoints.training_checkpoint(), tmp_path / "healthy.pth")
    outcome = diagnose_and_fix("--checkpoint", path, "--fix")
    assert outcome.rc == 0
    assert outcome.stdout.endswith("Nothing to repair; no file was written.\n")
    assert [each.name for each in tmp_path.iterdir()] == ["healthy.pth"]


def test_a_missing_file_exits_2(tmp_path):
    outcome = diagnose_and_fix("--checkpoint", tmp_path / "missing.pth", "--fix")
    assert outcome.rc == 2
    assert "TM904: No such file." in outcome.stdout


def test_no_checkpoint_exits_2_with_the_usage():
    outcome = diagnose_and_fix()
    assert outcome.rc == 2
    assert "--checkpoint" in outcome.stderr


def test_a_full_disk_exits_2_and_leaves_only_the_source(damaged, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fixing, "apply_plan", full)
    outcome = diagnose_and_fix("--checkpoint", damaged, "--fix")
    assert outcome.rc == 2
    assert outcome.stderr == "diagnose_and_fix: No space left on device. The source is untouched.\n"
    assert [path.name for path in Path().iterdir()] == ["damaged.pth"]


def test_control_c_exits_130_and_leaves_only_the_source(damaged, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fixing, "apply_plan", interrupted)
    outcome = diagnose_and_fix("--checkpoint", damaged, "--fix")
    assert outcome.rc == 130
    assert "interrupted" in outcome.stderr
    assert [path.name for path in Path().iterdir()] == ["damaged.pth"]


def test_the_script_itself_runs(damaged):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--checkpoint", damaged, "--fix"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("Fixed checkpoint saved: damaged_FIXED.pth\n")


@pytest.fixture
def rate(tmp_path, monkeypatch):
    """Give the name of a checkpoint with a NaN learning rate in the current folder."""
    monkeypatch.chdir(tmp_path)
    checkpoint = checkpoints.training_checkpoint()
    checkpoint["optimizer_state_dict"]["param_groups"][0]["lr"] = float("nan")
    checkpoints.save(checkpoint, tmp_path / "rate.pth")
    return Path("rate.pth")


def test_a_learning_rate_is_repaired_with_the_option_that_the_report_names(rate):
    outcome = diagnose_and_fix("--checkpoint", rate)
    assert outcome.rc == 1
    assert outcome.stdout.endswith("diagnose_and_fix.py --checkpoint rate.pth --fix --metadata\n")
    assert diagnose_and_fix("--checkpoint", rate, "--fix", "--metadata").rc == 0
    repaired = checkpoints.load(Path("rate_FIXED.pth"))["optimizer_state_dict"]["param_groups"][0]["lr"]
    assert repaired > 0


def test_a_learning_rate_is_refused_without_that_option(rate):
    outcome = diagnose_and_fix("--checkpoint", rate, "--fix")
    assert outcome.rc == 1
    assert "--metadata" in outcome.stdout
    assert not Path("rate_FIXED.pth").exists()


def test_a_repair_that_needs_a_donor_is_not_promised_without_one(refused):
    assert "To repair it" not in diagnose_and_fix("--checkpoint", refused).stdout
