import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strategies import quick
from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.formats.mapped import MappedFile
from torchmend.formats.zips import DEFLATED, STORED, Member, read_member, read_members

FILES = {"a/data.pkl": b"pickle", "a/data/0": bytes(range(256)), "a/empty": b"", "a/é.txt": b"accents" * 20}


class _Pipe(io.RawIOBase):
    """Takes bytes and cannot go back, so that zipfile writes data descriptors."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.parts.append(bytes(data))
        return len(data)


def by_zipfile(compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    return stream.getvalue()


def with_descriptors() -> bytes:
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    return b"".join(pipe.parts)


def with_forced_zip64() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in FILES.items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(data)
    return stream.getvalue()


def with_zip64_directory() -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 5)
        patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
        data = bytearray(with_forced_zip64())
    end = data.rfind(b"PK\x05\x06")
    data[end + 8 : end + 20] = b"\xff" * 12  # as in an archive whose numbers overflow the small directory
    return bytes(data)


def with_comments() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.comment = b"a comment at the end"
        for name, data in FILES.items():
            info = zipfile.ZipInfo(name)
            info.comment, info.extra = b"a comment", struct.pack("<2HL", 0xCAFE, 4, 7)
            archive.writestr(info, data)
    return stream.getvalue()


def by_torch() -> bytes:
    stream = io.BytesIO()
    torch.save({"x": torch.arange(50.0), "y": torch.ones(3)}, stream)
    return stream.getvalue()


KINDS: dict[str, Callable[[], bytes]] = {
    "stored": by_zipfile,
    "deflated": lambda: by_zipfile(zipfile.ZIP_DEFLATED),
    "data descriptors": with_descriptors,
    "forced zip64": with_forced_zip64,
    "zip64 directory": with_zip64_directory,
    "comments": with_comments,
    "torch": by_torch,
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def written(tmp_path: Path, data: bytes) -> MappedFile:
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    return MappedFile(path)


def members(tmp_path: Path, kind: str) -> tuple[MappedFile, dict[str, Member]]:
    file = written(tmp_path, KINDS[kind]())
    return file, {member.name: member for member in read_members(file)}


@every_kind
def test_members_have_the_names_that_zipfile_gives_in_the_same_order(tmp_path: Path, kind: str) -> None:
    file, found = members(tmp_path, kind)
    assert list(found) == zipfile.ZipFile(file.path).namelist()


@every_kind
def test_sizes_methods_and_checksums_are_those_of_zipfile(tmp_path: Path, kind: str) -> None:
    file, found = members(tmp_path, kind)
    infos = zipfile.ZipFile(file.path).infolist()
    assert [(m.size, m.nbytes, m.method, m.crc) for m in found.values()] == [
        (i.file_size, i.compress_size, i.compress_type, i.CRC) for i in infos
    ]


@every_kind
def test_a_member_starts_where_its_local_header_ends(tmp_path: Path, kind: str) -> None:
    file, found = members(tmp_path, kind)
    for info in zipfile.ZipFile(file.path).infolist():
        name_length, extra_length = struct.unpack("<2H", file.read(info.header_offset + 26, 4))
        assert found[info.filename].start == info.header_offset + 30 + name_length + extra_length


@every_kind
def test_a_member_is_read_as_zipfile_reads_it(tmp_path: Path, kind: str) -> None:
    file, found = members(tmp_path, kind)
    archive = zipfile.ZipFile(file.path)
    assert {n: read_member(file, m, 10_000) for n, m in found.items()} == {
        name: archive.read(name) for name in archive.namelist()
    }


@every_kind
def test_the_checksum_stands_at_every_place_that_is_listed(tmp_path: Path, kind: str) -> None:
    file, found = members(tmp_path, kind)
    assert all(file.read(at, 4) == struct.pack("<L", m.crc) for m in found.values() for at in m.crc_at)


@every_kind
def test_the_checksum_is_listed_wherever_it_stands(tmp_path: Path, kind: str) -> None:
    file, found = members(tmp_path, kind)
    for member in found.values():
        if member.size:
            needle, data = struct.pack("<L", member.crc), file.read(0, file.size)
            assert sorted(member.crc_at) == [at for at in range(len(data)) if data[at : at + 4] == needle]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "deflated"])
def test_an_archive_whose_bytes_and_checksums_are_replaced_in_place_is_whole(tmp_path: Path, kind: str) -> None:
    file, found = members(tmp_path, kind)
    data = bytearray(file.read(0, file.size))
    for member in found.values():
        fresh = bytes(byte ^ 0x55 for byte in file.read(member.start, member.nbytes))
        data[member.start : member.start + member.nbytes] = fresh
        for at in member.crc_at:
            data[at : at + 4] = struct.pack("<L", zlib.crc32(fresh))
    assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None


def test_the_kinds_of_archives_differ_in_what_they_are_meant_to(tmp_path: Path) -> None:
    flags = zipfile.ZipFile(io.BytesIO(with_descriptors())).infolist()[0].flag_bits
    assert (flags & 8, b"PK\x06\x06" in with_zip64_directory(), b"PK\x06\x06" in by_zipfile()) == (8, True, False)


def test_an_archive_of_no_members_is_empty(tmp_path: Path) -> None:
    stream = io.BytesIO()
    zipfile.ZipFile(stream, "w").close()
    assert read_members(written(tmp_path, stream.getvalue())) == []


@every_kind
@pytest.mark.parametrize("missing", [1, 5, 21, 22, 23, 40, 100])
def test_an_archive_that_is_cut_off_is_truncated(tmp_path: Path, kind: str, missing: int) -> None:
    data = KINDS[kind]()
    tail = len(with_comments()) - with_comments().rfind(b"PK\x05\x06") if kind == "comments" else 22
    file = written(tmp_path, data[: len(data) - max(0, tail - 22) - missing])
    with pytest.raises(FileError, match="cut off") as caught:
        read_members(file)
    assert caught.value.code is Code.TRUNCATED


def test_a_zip64_directory_that_is_missing_is_malformed(tmp_path: Path) -> None:
    data = bytearray(with_zip64_directory().replace(b"PK\x06\x07", b"PK\x00\x00"))
    count_at = data.rfind(b"PK\x05\x06") + 10
    data[count_at : count_at + 2] = b"\xff\xff"
    file = written(tmp_path, bytes(data))
    with pytest.raises(FileError, match="needs a zip64 directory and has none"):
        read_members(file)


def test_a_zip64_locator_that_points_beyond_the_file_is_malformed(tmp_path: Path) -> None:
    data = bytearray(with_zip64_directory())
    at = data.rfind(b"PK\x06\x07") + 8
    data[at : at + 8] = struct.pack("<Q", 2**64 - 1)
    with pytest.raises(FileError, match="needs a zip64 directory and has none"):
        read_members(written(tmp_path, bytes(data)))


@pytest.mark.parametrize(("at", "what"), [(24, "a directory of"), (40, "a directory of"), (48, "a directory of")])
def test_a_zip64_directory_that_claims_too_much_is_malformed(tmp_path: Path, at: int, what: str) -> None:
    data = bytearray(with_zip64_directory())
    end = data.rfind(b"PK\x06\x06") + at + (8 if at == 24 else 0)
    data[end : end + 8] = struct.pack("<Q", 2**63)
    with pytest.raises(FileError, match=what):
        read_members(written(tmp_path, bytes(data)))


def test_a_member_without_its_local_header_is_malformed(tmp_path: Path) -> None:
    data = by_zipfile().replace(b"PK\x03\x04", b"PK\x00\x00", 1)
    with pytest.raises(FileError, match=r"no local header for a/data\.pkl at byte 0"):
        read_members(written(tmp_path, data))


def test_a_directory_entry_without_its_mark_is_malformed(tmp_path: Path) -> None:
    data = by_zipfile().replace(b"PK\x01\x02", b"PK\x00\x00", 1)
    with pytest.raises(FileError, match="a directory entry that is none"):
        read_members(written(tmp_path, data))


def test_a_member_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    file, found = members(tmp_path, "stored")
    with pytest.raises(FileError, match="claims 256 bytes, more than 255"):
        read_member(file, found["a/data/0"], 255)


def test_a_member_that_inflates_to_more_than_it_claims_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, b"".join([packed := _deflated(b"\0" * 100_000)]))
    bomb = Member(entry=0, header=0, name="b", method=DEFLATED, crc=0, start=0, nbytes=len(packed), size=10, crc_at=())
    with pytest.raises(FileError, match="inflates to more than 1,000 bytes"):
        read_member(file, bomb, 1000)


def test_a_member_that_does_not_inflate_is_malformed(tmp_path: Path) -> None:
    broken = Member(entry=0, header=0, name="b", method=DEFLATED, crc=0, start=0, nbytes=9, size=10, crc_at=())
    with pytest.raises(FileError, match="does not inflate"):
        read_member(written(tmp_path, b"\xff" * 9), broken, 1000)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_compressed_otherwise_is_refused(tmp_path: Path, compression: int) -> None:
    file = written(tmp_path, by_zipfile(compression))
    with pytest.raises(FileError, match=f"compressed by method {compression}"):
        read_member(file, next(m for m in read_members(file) if m.name == "a/data/0"), 1000)


def test_a_stored_member_takes_as_many_bytes_as_it_has(tmp_path: Path) -> None:
    data = bytearray(by_zipfile())
    entry = data.find(b"PK\x01\x02")
    data[entry + 20 : entry + 24] = struct.pack("<L", 5)
    with pytest.raises(FileError, match=r"a/data\.pkl claims 5 bytes"):
        read_members(written(tmp_path, bytes(data)))


@quick
@given(st.data(), st.sampled_from(list(KINDS)))
def test_an_archive_with_random_bytes_in_it_is_read_or_a_file_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str
) -> None:
    damaged = bytearray(KINDS[kind]())
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    file = written(tmp_path_factory.mktemp("zip"), bytes(damaged))
    try:
        found = read_members(file)
    except FileError:
        return
    assert all(member.start + member.nbytes <= file.size for member in found)


@quick
@given(st.binary(max_size=200))
def test_an_end_of_an_archive_behind_random_bytes_is_read_or_a_file_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = written(tmp_path_factory.mktemp("zip"), data + b"PK\x05\x06" + data[:18].ljust(18, b"\0"))
    try:
        read_members(file)
    except FileError:
        pass


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def test_members_that_are_stored_are_told_from_members_that_are_not(tmp_path: Path) -> None:
    methods = {members(tmp_path, kind)[1]["a/data/0"].method for kind in ("stored", "deflated")}
    assert methods == {STORED, DEFLATED}
