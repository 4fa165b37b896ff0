"""The command line: its flags are those that users type, mistakes are told, and exit codes say how it ended."""

import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch

from trainings import interrupted_at
from wavessm_x.cli import run
from wavessm_x.data.synthetic import photographs

ROOT = Path(__file__).parents[3]


@pytest.fixture
def here(tmp_path, monkeypatch):
    photographs(tmp_path / "pictures", 12, 40, 0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SHORT = shlex.split(
    "train --data_path pictures --preset tiny --patch_size 32 --batch_size 2 --workers 0 --num_iter 3 --val_every 3 "
    "--accelerator cpu --devices 1 --model_file run/wavessm_x.pth"
)


def test_a_short_training_ends_well_and_leaves_what_it_promises(here):
    assert run([*SHORT, "--lr", "0.0002", "--dataset_name", "YourDataset"]) == 0
    found = {str(each.relative_to(here / "run")) for each in (here / "run").rglob("*") if each.is_file()}
    assert {
        "wavessm_x.pth",
        "wavessm_x_best.pth",
        "logs/training_wavessm_x.csv",
        "visualizations/training_curves.png",
        "visualizations/loss_breakdown.png",
        "visualizations/validation_metrics.png",
        "visualizations/samples_iter3.png",
    } <= found


def test_one_that_is_interrupted_says_so_by_its_exit_code(here, monkeypatch):
    interrupted_at(monkeypatch, 2)
    assert run(SHORT) == 130
    assert torch.load("run/wavessm_x.pth", weights_only=True)["iteration"] == 2


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--lr", "0"], "lr is 0.0; it must be above 0"),
        (["--num_iter", "0"], "num_iter is 0; it must be 1 or more"),
        (["--batch_size", "0"], "batch_size is 0; it must be 1 or more"),
        (["--preset", "huge"], "There is no preset 'huge'"),
        (["--wavelet", "sym4"], "wavelet is 'sym4'"),
        (["--data_path", "nowhere"], "nowhere does not exist"),
        (["--resume"], "There is no checkpoint"),
        (["--precision", "8"], "Invalid value for '--precision'"),
        (["--learning_rate", "1"], "No such option"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
@pytest.mark.usefixtures("here")
def test_mistakes_are_told_and_leave_nothing(flags, told, capsys):
    assert run([*SHORT, *flags]) == 2
    assert told in capsys.readouterr().err
    assert not Path("run/wavessm_x.pth").exists()


@pytest.mark.usefixtures("here")
def test_a_fresh_training_does_not_write_over_another_one(capsys):
    assert run(SHORT) == 0
    before = Path("run/wavessm_x.pth").read_bytes()
    assert run(SHORT) == 2
    assert "Pass --resume to go on from it" in capsys.readouterr().err
    assert Path("run/wavessm_x.pth").read_bytes() == before


def test_the_script_is_the_same_thing(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_FIXED.py", "--help"])
    with pytest.raises(SystemExit) as leaving:
        runpy.run_path(str(ROOT / "train_FIXED.py"), run_name="__main__")
    assert leaving.value.code == 0
    shown = capsys.readouterr().out
    for flag in shlex.split(
        "--lr --data_path --data_path_test --dataset_name --num_iter --batch_size --workers --seed --val_every "
        "--use_mamba --use_fass --use_ffc --no_mamba --no_fass --no_ffc --d_state --d_conv --expand --wavelet "
        "--fass_no_b --fass_no_c --fass_no_delta --loss_weights --model_file --resume"
    ):
        assert flag in shown


def test_without_its_requirements_it_says_how_to_get_them(here, monkeypatch, capsys):
    for name in [each for each in sys.modules if each == "wavessm_x.training.run"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    assert run(SHORT) == 2
    assert "pip install '.[wavessm]'" in capsys.readouterr().err
