"""The command, as a stranger types it."""

import contextlib
import io
import logging

import pytest
from torch._dynamo.exc import TorchDynamoException

from trainings import config_in, data_in, run
from wavessm_x import cli
from wavessm_x.cli.common import Exit, Lines
from wavessm_x.config import ConfigError
from wavessm_x.training.loop import Loop


@pytest.mark.parametrize("wrong", [("--devices", "0"), ("--accelerator", "abacus")], ids=str)
def test_devices_that_do_not_exist_are_told_in_one_line(wrong, capsys):
    assert cli.run(["train", "--preset", "tiny", *wrong]) == Exit.UNUSABLE
    told = capsys.readouterr().err
    assert told.startswith("wavessm: accelerator is ")
    assert "Traceback" not in told


def test_log_lines_go_to_what_stderr_is_now():
    handler = Lines()
    stream = io.StringIO()
    with contextlib.redirect_stderr(stream):
        handler.emit(logging.LogRecord("wavessm_x", logging.INFO, "", 0, "Checkpoint saved: %s", ("x.pth",), None))
    assert stream.getvalue() == "Checkpoint saved: x.pth\n"


def test_a_compiler_that_fails_is_told_with_a_way_out(tmp_path, monkeypatch):
    def fail(_self, _batches):
        raise TorchDynamoException("no C++ compiler")

    monkeypatch.setattr(Loop, "_step", fail)
    with pytest.raises(ConfigError, match=r"leave --compile out\. no C\+\+ compiler"):
        run(data_in(tmp_path), config_in(tmp_path))


def test_a_save_without_a_validation_speaks_of_no_score(tmp_path, monkeypatch, caplog):
    step = Loop._step

    def stopping(self, batches):
        self._stops = True
        return step(self, batches)

    monkeypatch.setattr(Loop, "_step", stopping)
    config = config_in(tmp_path)
    assert run(data_in(tmp_path), config).iteration == 1
    assert config.model_file.exists()
    assert "never wins" not in caplog.text


def test_a_picture_that_cannot_be_read_is_named_once_in_the_log(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    data = data_in(tmp_path)
    (data.data_path / "torn.png").write_bytes(b"no picture")
    run(data, config_in(tmp_path, num_iter=1))
    assert "torn.png" in caplog.text
    assert caplog.text.count("files are skipped") == 1
