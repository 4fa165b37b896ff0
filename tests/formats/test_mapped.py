import errno
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError, SourceChangedError
from torchmend.formats import mapped
from torchmend.formats.mapped import MappedFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    return path


def test_the_size_is_that_of_the_file(path: Path) -> None:
    with MappedFile(path) as file:
        assert file.size == path.stat().st_size


@pytest.mark.parametrize(("start", "length"), [(0, 4), (50, 10), (0, 100), (90, 50), (100, 1), (500, 5), (2**70, 5)])
def test_reading_gives_what_is_there_and_no_more(path: Path, start: int, length: int) -> None:
    with MappedFile(path) as file:
        assert file.read(start, length) == path.read_bytes()[start : start + length]


def test_the_map_cannot_be_written(path: Path) -> None:
    with MappedFile(path) as file, pytest.raises(TypeError):
        file.buffer[0] = 1


def test_a_missing_file_is_a_file_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file") as caught:
        MappedFile(tmp_path / "none")
    assert caught.value.code is Code.UNREADABLE


def test_a_folder_is_a_file_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="a folder, not a file"):
        MappedFile(tmp_path)


def test_an_empty_file_is_a_file_error(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(FileError, match="empty") as caught:
        MappedFile(tmp_path / "empty")
    assert caught.value.code is Code.NOT_A_CHECKPOINT


def test_a_link_to_nowhere_is_a_file_error(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "none")
    with pytest.raises(FileError, match="No such file"):
        MappedFile(tmp_path / "link")


def test_a_path_through_a_file_is_a_file_error(path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        MappedFile(path / "below")


def test_a_name_that_is_too_long_is_a_file_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        MappedFile(tmp_path / ("x" * 5000))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)  # so that opening it to read does not wait
    try:
        with pytest.raises(FileError, match="not a regular file"):
            MappedFile(tmp_path / "pipe")
    finally:
        os.close(writer)


def test_an_unchanged_file_passes_its_check(path: Path) -> None:
    with MappedFile(path) as file:
        file.check_unchanged()


def test_a_file_that_grew_fails_its_check(path: Path) -> None:
    with MappedFile(path) as file:
        path.write_bytes(bytes(101))
        with pytest.raises(SourceChangedError, match="changed while it was being read"):
            file.check_unchanged()


def test_a_file_that_was_touched_fails_its_check(path: Path) -> None:
    with MappedFile(path) as file:
        os.utime(path, ns=(1, 1))
        with pytest.raises(SourceChangedError, match="changed while it was being read"):
            file.check_unchanged()


def test_a_file_that_was_replaced_fails_its_check(path: Path, tmp_path: Path) -> None:
    with MappedFile(path) as file:
        stat = path.stat()
        (tmp_path / "other").write_bytes(path.read_bytes())
        os.utime(tmp_path / "other", ns=(stat.st_atime_ns, stat.st_mtime_ns))
        (tmp_path / "other").replace(path)
        with pytest.raises(SourceChangedError, match="changed while it was being read"):
            file.check_unchanged()


def test_a_file_that_was_deleted_fails_its_check(path: Path) -> None:
    with MappedFile(path) as file:
        path.unlink()
        with pytest.raises(SourceChangedError, match="changed while it was being read"):
            file.check_unchanged()


def test_leaving_the_context_unmaps_the_file(path: Path) -> None:
    with MappedFile(path) as file:
        pass
    assert file.buffer.closed


def test_an_array_that_looks_into_the_file_outlives_its_closing(path: Path) -> None:
    file = MappedFile(path)
    view = np.frombuffer(file.buffer, dtype=np.uint8)
    file.close()
    assert view.tobytes() == path.read_bytes()


def refuse_maps(monkeypatch: pytest.MonkeyPatch, *, private: bool) -> None:
    """Make shared maps fail as on some FUSE file systems, and private ones too if `private`."""
    real = mmap.mmap

    class Refusing(real):
        def __new__(cls, *arguments: int, **options: int) -> mmap.mmap:
            if private or "flags" not in options:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
            return real(*arguments, **options)

    monkeypatch.setattr(mmap, "mmap", Refusing)


@pytest.mark.parametrize("private", [False, True])
def test_a_file_that_cannot_be_mapped_in_the_usual_way_is_read_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch, private: bool
) -> None:
    refuse_maps(monkeypatch, private=private)
    with MappedFile(path) as file:
        assert file.read(0, 1000) == path.read_bytes()


@pytest.mark.skipif(not hasattr(mmap, "MAP_PRIVATE"), reason="no private maps here")
def test_a_private_map_cannot_be_written_either(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_maps(monkeypatch, private=False)
    with MappedFile(path) as file, pytest.raises(TypeError):
        file.buffer[0] = 1


def test_a_large_file_that_cannot_be_mapped_is_a_file_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_maps(monkeypatch, private=True)
    monkeypatch.setattr(mapped, "LARGEST_READ", 99)
    with pytest.raises(FileError, match="Copy the file to a local disk"):
        MappedFile(path)
