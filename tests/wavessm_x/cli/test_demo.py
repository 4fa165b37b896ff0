"""`wavessm demo`: opens the page and closes it again; what hinders it is told."""

import os
import socket
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

import event_loops
from networks import checkpoint
from wavessm_x.cli import run


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_RUN_HISTORY", "GRADIO_TEMP_DIR", "no_proxy"):
        monkeypatch.setenv(name, "")  # the command sets them; they are put back
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "checkpoints" / "wavessm_x.pth")
    with event_loops.closed_afterwards():
        yield


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@pytest.mark.usefixtures("here")
def test_the_page_opens_in_a_browser_and_closes_by_ctrl_c(port, monkeypatch, capsys):
    opened = []

    def look_and_press_ctrl_c(address):
        with urlopen(address) as answer:
            opened.append((address, answer.status, os.environ["GRADIO_TEMP_DIR"]))
        raise KeyboardInterrupt

    monkeypatch.setattr("webbrowser.open", look_and_press_ctrl_c)
    assert run(["demo", "--port", str(port)]) == 0
    ((address, status, kept),) = opened
    assert (address, status) == (f"http://127.0.0.1:{port}/", 200)
    assert not Path(kept).exists()
    assert capsys.readouterr().err.splitlines() == [f"The page is at {address} until you press Ctrl-C.", "Closed."]


@pytest.mark.usefixtures("here")
def test_a_port_that_is_taken_is_told(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        assert run(["demo", "--port", str(taken), "--no_browser"]) == 2
    assert f"Nothing can be served at 127.0.0.1:{taken}. Either the port is taken" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_a_checkpoint_that_is_missing_is_told(capsys):
    assert run(["demo", "--model_file", "nowhere.pth", "--no_browser"]) == 2
    assert "nowhere.pth" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_without_gradio_it_says_how_to_get_it(monkeypatch, capsys):
    for name in [each for each in sys.modules if each.startswith("wavessm_x.page")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert run(["demo", "--no_browser"]) == 2
    assert "pip install '.[page]'" in capsys.readouterr().err
