"""Archives are laid out byte for byte as torch's own writer lays them out."""

import io
import zipfile

import pytest
import torch

from torchmend.doctor.writing.zip_archive import ZipArchive


def written_again(data):
    """Write the records of an archive anew, under their names."""
    out = io.BytesIO()
    archive = ZipArchive(out)
    with zipfile.ZipFile(io.BytesIO(data)) as original:
        for info in original.infolist():
            archive.add(info.filename, info.file_size, [original.read(info)])
    archive.finish()
    return out.getvalue()


@pytest.mark.parametrize(
    "value",
    [
        {},
        torch.arange(7),
        {"a": torch.zeros(0), "b": torch.ones(3, dtype=torch.int8)},
        {"ä": torch.ones(1000), "n": [torch.tensor(n) for n in range(100)]},
    ],
)
def test_the_records_of_a_torch_file_written_again_give_the_same_file(value):
    torch.save(value, stream := io.BytesIO())
    assert written_again(stream.getvalue()) == stream.getvalue()


def test_more_records_than_a_plain_directory_can_count_are_all_found():
    out = io.BytesIO()
    archive = ZipArchive(out)
    for number in range(70_000):
        archive.add(f"archive/{number}", 1, [b"x"])
    archive.finish()
    with zipfile.ZipFile(out) as read:
        assert len(read.namelist()) == 70_000
        assert read.read("archive/69999") == b"x"


def test_a_record_of_another_size_than_announced_is_a_bug():
    with pytest.raises(AssertionError, match="another size"):
        ZipArchive(io.BytesIO()).add("a", 2, [b"x"])


def test_a_record_of_more_than_4_gib_and_those_behind_it_are_found_by_zipfile(tmp_path):
    path = tmp_path / "large.zip"
    with path.open("wb") as file:
        out = Sparse(file)
        archive = ZipArchive(out)
        archive.add("large", (1 << 32) + 64, out.zeros((1 << 32) + 64))
        archive.add("behind", 5, [b"after"])
        archive.finish()
    with zipfile.ZipFile(path) as read:
        assert [info.file_size for info in read.infolist()] == [(1 << 32) + 64, 5]
        assert read.read("behind") == b"after"


class Sparse:
    """A file in which pieces of zeros leave holes."""

    def __init__(self, file):
        self.file = file
        self.piece = memoryview(bytes(1 << 22))

    def zeros(self, nbytes):
        while nbytes:
            yield self.piece[: min(nbytes, 1 << 22)]
            nbytes -= min(nbytes, 1 << 22)

    def write(self, data):
        if isinstance(data, memoryview):
            self.file.seek(len(data), 1)
        else:
            self.file.write(data)
