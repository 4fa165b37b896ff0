import io
import pickle
import zipfile
import zlib
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from strategies import quick
from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.formats import archives, registry
from torchmend.formats.mapped import MappedFile
from torchmend.formats.names import SUFFIXES
from torchmend.formats.registry import read_contents


def legacy() -> bytes:
    stream = io.BytesIO()
    torch.save({"x": torch.ones(3)}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def archive_of(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, "hello")
    return stream.getvalue()


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(30)


@pytest.mark.parametrize("suffix", [*SUFFIXES, "", ".txt"])
def test_a_torch_file_is_told_by_its_content_whatever_its_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    torch.save({"x": torch.ones(1)}, path)
    assert read_contents(path).format == "torch zip"


@pytest.mark.parametrize("suffix", [*SUFFIXES, "", ".txt"])
def test_a_safetensors_file_is_told_by_its_content_whatever_its_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    safetensors.torch.save_file({"x": torch.ones(1)}, path)
    assert read_contents(path).format == "safetensors"


@pytest.mark.parametrize("suffix", [*SUFFIXES, "", ".txt"])
def test_a_legacy_file_is_told_by_its_content_whatever_its_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(legacy())
    assert read_contents(path).format == "legacy torch stream"


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"", Code.NOT_A_CHECKPOINT, "empty"),
        (b"x", Code.NOT_A_CHECKPOINT, "No checkpoint in a format that is known"),
        (PNG, Code.NOT_A_CHECKPOINT, r"it starts with b'\\x89PNG"),
        (b"hello, this is a text\n" * 9, Code.NOT_A_CHECKPOINT, "it starts with b'hello, t'"),
        (b"<!DOCTYPE html><html></html>", Code.NOT_A_CHECKPOINT, "it starts with b'<!DOCTYP'"),
        (b"version https://git-lfs.github.com/spec/v1\n", Code.NOT_A_CHECKPOINT, "it starts with b'version '"),
        (pickle.dumps({"x": 1}), Code.NOT_A_CHECKPOINT, "No checkpoint in a format that is known"),
        (zlib.compress(b"x" * 99), Code.NOT_A_CHECKPOINT, "No checkpoint in a format that is known"),
        (bytes(4096), Code.NOT_A_CHECKPOINT, "No checkpoint in a format that is known"),
        (archive_of("word/document.xml"), Code.NOT_A_CHECKPOINT, r"none of them is a data\.pkl"),
        (b"PK\x03\x04", Code.TRUNCATED, "cut off"),
        (legacy()[:90], Code.TRUNCATED, "inside its pickles"),
    ],
    ids=["empty", "one byte", "PNG", "text", "HTML", "git LFS", "pickle", "zlib", "zeros", "docx", "zip", "cut legacy"],
)  # fmt: skip
def test_what_is_no_readable_checkpoint_is_a_file_error(
    tmp_path: Path, content: bytes, code: Code, message: str
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(FileError, match=message) as caught:
        read_contents(path)
    assert caught.value.code is code


def test_a_missing_file_is_a_file_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file") as caught:
        read_contents(tmp_path / "none.pt")
    assert caught.value.code is Code.UNREADABLE


def test_a_folder_is_a_file_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="a folder") as caught:
        read_contents(tmp_path)
    assert caught.value.code is Code.UNREADABLE


@pytest.mark.parametrize("content", [PNG, legacy()[:90], b"PK\x03\x04"], ids=["PNG", "legacy", "zip"])
def test_every_file_error_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"\.$") as caught:
        read_contents(path)
    assert caught.value.remedy


def test_a_file_that_cannot_be_read_is_closed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[MappedFile] = []
    close = MappedFile.close
    monkeypatch.setattr(MappedFile, "close", lambda self: (closed.append(self), close(self))[0])
    (tmp_path / "a.png").write_bytes(PNG)
    with pytest.raises(FileError, match="PNG"):
        read_contents(tmp_path / "a.png")
    assert len(closed) == 1


def test_a_format_that_is_listed_first_is_asked_first(tmp_path: Path) -> None:
    assert registry.FILES[0] is archives


@quick
@given(st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x02\0\0\0\0\0\0\0{"]), st.binary(max_size=100))
def test_any_bytes_are_read_or_a_file_error(
    tmp_path_factory: pytest.TempPathFactory, start: bytes, rest: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "model.pt"
    path.write_bytes(start + rest)
    try:
        read_contents(path)
    except FileError:
        pass
