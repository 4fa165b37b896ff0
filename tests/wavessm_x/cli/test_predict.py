"""`wavessm predict`: files in, files out, and what it says on the way."""

import numpy as np
import pytest
from PIL import Image

from networks import checkpoint, network
from wavessm_x.cli import run
from wavessm_x.data.reading import read


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A network in its default place, two pictures and masks for them."""
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "checkpoints" / "wavessm_x.pth")
    for name in ("in", "masks"):
        (tmp_path / name).mkdir()
    rng = np.random.default_rng(0)
    mask = np.zeros((40, 90), np.uint8)
    mask[10:20, 60:] = 255
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (40, 90, 3), dtype=np.uint8)).save(tmp_path / "in" / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path


def typed(line):
    return run(line.split())


def changed(here, name):
    return (read(here / "out" / f"{name}.png") != read(here / "in" / f"{name}.png")).any(axis=2)


def test_a_picture_is_filled_in_tiles(here, capsys):
    assert typed("predict in/a.png --mask masks/a.png -o out/a.png --tile 32 --overlap 8") == 0
    rows, columns = np.nonzero(changed(here, "a"))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 19, 60, 89)
    assert "in/a.png -> out/a.png: white is filled, 8.3%." in capsys.readouterr().err


def test_a_folder_is_filled_and_progress_shown(here, capsys):
    assert typed("predict in --mask masks -o out") == 0
    assert changed(here, "a").sum() == pytest.approx(300, abs=10)
    assert changed(here, "b").sum() == pytest.approx(300, abs=10)
    told = capsys.readouterr()
    assert "[2/2] in/b.png -> out/b.png" in told.err
    assert told.out == ""


def test_a_picture_that_fails_is_named_and_the_others_go_on(here, capsys):
    (here / "in" / "a.png").write_bytes(b"torn")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(here / "in" / "c.png")
    assert typed("predict in --mask masks/a.png -o out") == 1
    told = capsys.readouterr().err
    assert "in/a.png failed: in/a.png cannot be read" in told
    assert "in/c.png failed: This network expects a mask of 9x9 pixels; got 90x40." in told
    assert [each.name for each in (here / "out").iterdir()] == ["b.png"]


def test_nothing_that_succeeds_is_another_exit_code(here, capsys):
    for name in ("a", "b"):
        (here / "in" / f"{name}.png").write_bytes(b"torn")
    assert typed("predict in --mask masks -o out") == 2
    assert capsys.readouterr().err.count("cannot be read") == 2


def test_a_mask_that_is_nearly_all_white_is_questioned(here, capsys):
    Image.fromarray(np.full((40, 90), 255, np.uint8)).save(here / "masks" / "a.png")
    assert typed("predict in/a.png --mask masks/a.png -o out/a.png") == 0
    assert "white is filled, 100.0%. If black was meant to be filled, invert the masks." in capsys.readouterr().err


def test_what_is_transparent_is_filled_without_a_mask(here, capsys):
    layers = np.dstack([read(here / "in" / "a.png"), 255 - read(here / "masks" / "a.png")[..., 0]])
    Image.fromarray(layers).save(here / "in" / "a.png")
    assert typed("predict in/a.png -o out/a.png") == 0
    assert "what is transparent is filled, 8.3%" in capsys.readouterr().err


def test_an_older_output_is_replaced(here):
    (here / "out.jpg").write_text("older")
    assert typed("predict in/a.png --mask masks/a.png -o out.jpg") == 0
    assert read(here / "out.jpg").shape == (40, 90, 3)


def test_a_blind_network_takes_no_mask(here, capsys):
    checkpoint(here / "blind.pth", network(masked=False))
    assert typed("predict in/a.png --mask masks/a.png -o out --model_file blind.pth") == 2
    assert "leave --mask and --dilate out" in capsys.readouterr().err
    assert typed("predict in/a.png -o out --model_file blind.pth") == 0
    assert changed(here, "a").any()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("nowhere.png -o out", "nowhere.png does not exist"),
        ("in/a.png -o out", "Nothing says where in/a.png is to be filled"),
        ("in/a.png --mask masks/a.png -o out.txt", "No picture can be written to out.txt"),
        ("in/a.png --mask masks/a.png -o out --model_file lost.pth", "lost.pth"),
        ("in/a.png --mask masks/a.png -o out --tile 4", "tile is 4; it must be 16 pixels or more"),
        ("in/a.png --mask masks/a.png -o in/a.png", "it would be overwritten"),
        ("in/a.png --mask masks/a.png", "Missing option '--output'"),
    ],
    ids=str,
)
def test_mistakes_are_told_and_leave_nothing(arguments, told, capsys):
    assert typed(f"predict {arguments}") == 2
    assert told in capsys.readouterr().err
