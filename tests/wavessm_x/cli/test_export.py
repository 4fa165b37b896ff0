"""`wavessm export`: a file beside the checkpoint, or one line that says why not."""

import pytest

from networks import checkpoint
from wavessm_x.cli import run
from wavessm_x.restoring import exporting


def test_what_was_written_is_said_with_its_difference(tmp_path, monkeypatch, capsys):
    path = checkpoint(tmp_path / "x.pth")
    asked = []
    monkeypatch.setattr(exporting, "export", lambda _model, file, size: asked.append((file, size)) or 1.5e-6)
    assert run(["export", "--model_file", str(path), "-o", "x.pt2", "--size", "64"]) == 0
    assert [(str(file), size) for file, size in asked] == [("x.pt2", 64)]
    assert "x.pt2 gives what the network gives: the largest difference is 1.5e-06." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(("-o", "x.pth"), "x.pth is neither"), (("-o", "x.pt2", "--size", "100"), "size is 100"), ((), "--output")],
    ids=str,
)
def test_mistakes_are_told(tmp_path, arguments, told, capsys):
    path = checkpoint(tmp_path / "x.pth")
    assert run(["export", "--model_file", str(path), *arguments]) == 2
    assert told in capsys.readouterr().err
