import errno
import mmap
import os

import numpy as np
import pytest

from torchmend.formats import ahead
from torchmend.formats.ahead import READ_BYTES, STEP, ReadAhead
from torchmend.formats.mapped import MappedFile
from torchmend.measure.chunks import address_of

NBYTES = 2 * STEP + 1000

needs_reads = pytest.mark.skipif(not hasattr(os, "preadv"), reason="this system cannot read at an offset")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(NBYTES))
    with MappedFile(path) as file:
        yield file


@pytest.fixture
def reads(monkeypatch):
    """Collect what is read, as if nothing were in memory."""
    done = []
    real = getattr(os, "preadv", None)

    def preadv(descriptor, buffers, offset):
        done.append((offset, len(buffers[0])))
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv, raising=False)
    monkeypatch.setattr(ahead, "_in_memory", lambda *_: False)
    return done


def start(file):
    return address_of(np.frombuffer(file.buffer, np.uint8))


@needs_reads
def test_an_address_in_a_map_becomes_a_place_in_the_file(file, reads):
    with ReadAhead([file]) as fetch:
        fetch(start(file) + 5000, 300)
    assert reads == [(5000, 300)]


@needs_reads
def test_a_long_stretch_is_read_in_small_steps_and_not_beyond_the_file(file, reads):
    with ReadAhead([file]) as fetch:
        fetch(start(file) + 7, 10 * STEP)
    assert [at for at, _ in reads] == list(range(7, NBYTES, READ_BYTES))
    assert sum(count for _, count in reads) == NBYTES - 7


@needs_reads
def test_what_is_in_memory_is_not_read(file, reads, monkeypatch):
    monkeypatch.setattr(ahead, "_in_memory", lambda *_: True)
    with ReadAhead([file]) as fetch:
        fetch(start(file), NBYTES)
    assert reads == []


@needs_reads
def test_from_the_first_byte_that_is_missing_on_a_file_is_read_in_one_stream(file, reads, monkeypatch):
    monkeypatch.setattr(ahead, "_in_memory", lambda _, begin, __: begin != 1000)
    with ReadAhead([file]) as fetch:
        for at in (0, 1000, 2000):
            fetch(start(file) + at, 1000)
    assert reads == [(1000, 1000), (2000, 1000)]


@needs_reads
def test_addresses_outside_of_every_file_are_passed_over(file, reads):
    elsewhere = np.zeros(8)
    with ReadAhead([file]) as fetch:
        fetch(address_of(elsewhere), elsewhere.nbytes)
    assert reads == []


@needs_reads
def test_of_several_files_the_right_one_is_read(file, tmp_path, reads):
    path = tmp_path / "other"
    path.write_bytes(bytes(5000))
    with MappedFile(path) as other, ReadAhead([file, other]) as fetch:
        fetch(start(other) + 100, 50)
        fetch(start(file) + 200, 60)
    assert reads == [(100, 50), (200, 60)]


@needs_reads
def test_a_file_that_is_gone_is_not_read(file, reads):
    file.path.unlink()
    with ReadAhead([file]) as fetch:
        fetch(start(file), 100)
    assert reads == []


@needs_reads
def test_a_file_that_was_cut_meanwhile_is_read_as_far_as_it_goes(file, reads):
    os.truncate(file.path, 500)
    with ReadAhead([file]) as fetch:
        fetch(start(file), NBYTES)
    assert [at for at, _ in reads] == [0, 500]


@needs_reads
def test_a_file_that_is_held_in_memory_needs_no_reading(file, reads):
    file.close()
    file.buffer = bytes(100)
    with ReadAhead([file]) as fetch:
        fetch(start(file), 100)
    assert reads == []


@needs_reads
def test_no_descriptor_is_left_open(file, reads):
    with ReadAhead([file]) as fetch:
        fetch(start(file), 100)
        opened = fetch._descriptor
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened)


def refuse(*_arguments):
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


@pytest.fixture
def advised(file, monkeypatch):
    """Map the file so that advice on it is collected."""
    asked = []

    class Map(mmap.mmap):
        def madvise(self, *call):
            asked.append(call)

    monkeypatch.setattr(mmap, "MADV_WILLNEED", 3, raising=False)
    file.close()
    file.buffer = Map(-1, NBYTES)
    return asked


def test_on_a_system_that_does_not_tell_what_is_in_memory_there_is_only_advice(file, advised, monkeypatch):
    monkeypatch.delattr(os, "RWF_NOWAIT", raising=False)
    with ReadAhead([file]) as fetch:
        fetch(start(file) + mmap.PAGESIZE + 10, 100)
    assert advised == [(mmap.MADV_WILLNEED, mmap.PAGESIZE, 110)]


def test_so_there_is_on_a_file_system_that_does_not_tell(file, advised, monkeypatch):
    monkeypatch.setattr(os, "preadv", refuse, raising=False)
    with ReadAhead([file]) as fetch:
        fetch(start(file), 100)
    assert advised == [(mmap.MADV_WILLNEED, 0, 100)]


def test_without_any_such_call_nothing_happens(file, monkeypatch):
    for module, name in ((os, "preadv"), (os, "RWF_NOWAIT"), (os, "posix_fadvise"), (mmap, "MADV_WILLNEED")):
        monkeypatch.delattr(module, name, raising=False)
    with ReadAhead([file]) as fetch:
        fetch(start(file), NBYTES)


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="only Linux tells what is in memory")
def test_a_file_that_was_just_written_is_in_memory(file):
    descriptor = os.open(file.path, os.O_RDONLY)
    try:
        assert ahead._in_memory(descriptor, 0, NBYTES)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("missing", [STEP - 1, 2 * STEP - 1, NBYTES - 1])
def test_a_byte_that_would_have_to_be_waited_for_is_not_in_memory(monkeypatch, missing):
    def preadv(_descriptor, _buffers, offset, _flags):
        if offset == missing:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return 1

    monkeypatch.setattr(os, "preadv", preadv, raising=False)
    monkeypatch.setattr(os, "RWF_NOWAIT", 8, raising=False)
    assert not ahead._in_memory(0, 0, NBYTES)
