"""Nothing that only some systems have is needed: each fallback is forced here."""

import errno
import os
import subprocess
import sys

import pytest
import torch

import checkpoints
from torchmend.keeping import copying
from torchmend.keeping.copying import copy_file
from torchmend.measure.workers import available_cores

BYTES = bytes(range(256)) * 5000


@pytest.fixture
def pair(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(BYTES)
    target.touch()
    return source, target


@pytest.fixture
def damaged(tmp_path):
    return checkpoints.save(checkpoints.nan_channels(checkpoints.training_checkpoint()), tmp_path / "damaged.pth")


def failing(number):
    def fail(*_arguments, **_options):
        raise OSError(number, os.strerror(number))

    return fail


# Cores


def test_without_an_affinity_call_all_cores_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert available_cores() == os.cpu_count()


def test_where_nothing_tells_the_cores_there_is_one(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1


# Copying


def test_a_file_is_copied_without_the_module_fcntl(pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    copy_file(*pair)
    assert pair[1].read_bytes() == BYTES


def test_a_file_is_copied_without_a_call_for_copying_ranges(pair, monkeypatch):
    monkeypatch.setattr(copying, "_clone", lambda *_: False)
    monkeypatch.delattr(os, "copy_file_range", raising=False)
    copy_file(*pair)
    assert pair[1].read_bytes() == BYTES


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM])
def test_a_file_is_copied_where_the_kernel_refuses_to_copy_ranges(pair, monkeypatch, number):
    monkeypatch.setattr(copying, "_clone", lambda *_: False)
    monkeypatch.setattr(os, "copy_file_range", failing(number), raising=False)
    copy_file(*pair)
    assert pair[1].read_bytes() == BYTES


def test_a_copy_by_ranges_that_stops_half_way_starts_again(pair, monkeypatch):
    def half(source, target, count):
        os.write(target, os.read(source, 1000))
        monkeypatch.setattr(os, "copy_file_range", failing(errno.EXDEV), raising=False)
        return 1000

    monkeypatch.setattr(copying, "_clone", lambda *_: False)
    monkeypatch.setattr(os, "copy_file_range", half, raising=False)
    copy_file(*pair)
    assert pair[1].read_bytes() == BYTES


def test_a_full_disk_is_no_reason_to_try_another_way(pair, monkeypatch):
    monkeypatch.setattr(copying, "_clone", lambda *_: False)
    monkeypatch.setattr(os, "copy_file_range", failing(errno.ENOSPC), raising=False)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        copy_file(*pair)


# Fixing


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_backup_is_a_copy_where_there_are_no_hard_links(damaged, monkeypatch, number):
    monkeypatch.setattr(os, "link", failing(number))
    before = damaged.read_bytes()
    assert checkpoints.torchmend("fix", "--in-place", damaged).rc == 0
    assert damaged.with_name("damaged.pth.bak").read_bytes() == before


def test_a_fix_does_without_syncing_folders(damaged, monkeypatch):
    real = os.open

    def no_folders(path, *arguments, **options):
        if os.path.isdir(path):  # noqa: PTH112
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", no_folders)
    assert checkpoints.torchmend("fix", damaged).rc == 0
    assert damaged.with_name("damaged_FIXED.pth").exists()


# Terminals


def run_with_encoding(encoding, *arguments):
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "COLUMNS": "80"}
    command = [sys.executable, "-m", "torchmend", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, env=environment)


@pytest.fixture
def foreign(tmp_path):
    """Give a file whose names no Western code page has."""
    state = {"编码器.weight": torch.tensor([float("nan")]), "ö.weight": torch.tensor([float("inf")])}
    return checkpoints.save(state, tmp_path / "модель.pth")


@pytest.mark.parametrize("encoding", ["cp1252:strict", "ascii:strict", "utf-8:strict"])
def test_a_name_that_the_terminal_cannot_show_does_not_stop_the_report(foreign, encoding):
    done = run_with_encoding(encoding, "diagnose", foreign)
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"TM201" in done.stdout


@pytest.mark.parametrize("encoding", ["cp1252:strict", "ascii:strict"])
@pytest.mark.parametrize("command", [["--help"], ["diagnose", "--help"], ["fix", "--help"], ["explain", "TM"]])
def test_the_programs_own_words_show_on_any_terminal(encoding, command):
    done = run_with_encoding(encoding, *command)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("code", ["TM101", "TM401", "TM901"])
def test_the_text_of_a_code_shows_on_an_ascii_terminal(code):
    assert run_with_encoding("ascii:strict", "explain", code).returncode == 0


@pytest.mark.parametrize("encoding", ["cp1252:strict", "ascii:strict"])
def test_an_error_about_such_a_name_is_a_message_too(tmp_path, encoding):
    done = run_with_encoding(encoding, "pick", tmp_path / "модель")
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes any bytes as a name")
def test_a_file_name_that_is_no_text_does_not_stop_the_report(tmp_path):
    path = tmp_path / os.fsdecode(b"model\xff.pth")
    checkpoints.save({"weight": torch.tensor([float("nan")])}, tmp_path / "plain.pth").rename(path)
    done = run_with_encoding("utf-8:strict", "diagnose", path)
    assert (done.returncode, done.stderr) == (1, b"")


def test_json_is_ascii_whatever_the_names(foreign):
    done = run_with_encoding("ascii:strict", "diagnose", "--format", "json", foreign)
    assert done.returncode == 1
    assert done.stdout.isascii()
