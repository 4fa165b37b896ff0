"""`wavessm evaluate`: a table on stdout, scores in a file, failures named."""

import json

import pytest

from networks import checkpoint, network
from wavessm_x.cli import run
from wavessm_x.data.synthetic import photographs


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "in", 2, 40, 0)
    checkpoint(tmp_path / "checkpoints" / "wavessm_x.pth")
    return tmp_path


def typed(line):
    return run(line.split())


def test_each_picture_and_the_mean_are_printed_and_written(here, capsys):
    assert typed("evaluate in -o scores.json --tile 32 --overlap 8") == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0].split() == ["picture", "psnr", "ssim", "psnr_masked", "ssim_masked"]
    assert len(lines) == 4
    report = json.loads((here / "scores.json").read_text())
    assert lines[3].split() == ["mean", "of", "2", *(f"{value:.3f}" for value in report["mean"].values())]
    assert "Photographs with drawn masks; 1 (white) is filled." in told.err


def test_a_file_that_fails_is_named_and_makes_the_exit_code_1(here, capsys):
    (here / "in" / "torn.png").write_bytes(b"torn")
    assert typed("evaluate in -o scores.csv") == 1
    told = capsys.readouterr()
    assert "in/torn.png failed: " in told.err
    assert "mean of 2" in told.out
    assert len((here / "scores.csv").read_text().splitlines()) == 3


def test_another_seed_draws_other_masks(here, capsys):
    outputs = []
    for seed in ("1", "2", "1"):
        assert run(["evaluate", "in", "--seed", seed]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[2] != outputs[1]


def test_a_blind_network_is_shown_damage(here, capsys):
    checkpoint(here / "blind.pth", network(masked=False))
    assert typed("evaluate in --model_file blind.pth") == 0
    assert "Photographs with drawn damage; blind." in capsys.readouterr().err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("nowhere", "nowhere does not exist"),
        ("in -o scores.txt", "scores.txt is neither"),
        ("in --masks nowhere", "nowhere does not exist"),
        ("in --model_file lost.pth", "lost.pth"),
    ],
    ids=str,
)
def test_mistakes_are_told(arguments, told, capsys):
    assert typed(f"evaluate {arguments}") == 2
    assert told in capsys.readouterr().err
