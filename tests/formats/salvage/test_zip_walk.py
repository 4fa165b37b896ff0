"""Members of an archive are found from one local header to the next, however their sizes are written."""

import io
import struct
import zipfile
import zlib

import pytest

from torchmend.formats.mapped import MappedFile
from torchmend.formats.salvage.zip_walk import walk
from torchmend.formats.zips import DEFLATED, STORED

DESCRIPTORS = {"32 bits": "<4sLLL", "64 bits": "<4sLQQ"}


def local(name, flags=0, method=STORED, crc=0, nbytes=0, size=0, extra=b""):
    header = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, flags, method, 0, 0, crc, nbytes, size, len(name), len(extra))
    return header + name + extra


def described(name, payload, layout="<4sLLL"):
    """Write a stored member whose size and checksum follow its payload."""
    crc = zlib.crc32(payload)
    return local(name, flags=8) + payload + struct.pack(layout, b"PK\x07\x08", crc, len(payload), len(payload))


def walked(tmp_path, data, **claims):
    (tmp_path / "x").write_bytes(data)
    with MappedFile(tmp_path / "x") as file:
        return [
            (member.name, file.read(member.start, member.nbytes), member.size, member.crc)
            for member in walk(file, claims)
        ]


@pytest.mark.parametrize("layout", DESCRIPTORS.values(), ids=DESCRIPTORS)
@pytest.mark.parametrize("claims", [{}, {"a": 5}])
def test_a_payload_ends_where_its_descriptor_says(tmp_path, layout, claims):
    data = described(b"a", b"12345", layout) + described(b"b", b"67", layout)
    found = [("a", b"12345", 5, zlib.crc32(b"12345")), ("b", b"67", 2, zlib.crc32(b"67"))]
    assert walked(tmp_path, data, **claims) == found


def test_a_descriptor_inside_a_payload_does_not_end_it_if_its_size_is_known(tmp_path):
    inner = b"1" + struct.pack("<4sLLL", b"PK\x07\x08", 0, 1, 1)
    data = described(b"a", inner) + described(b"b", b"67")
    assert [name for name, *_ in walked(tmp_path, data, a=len(inner))] == ["a", "b"]


def test_a_descriptor_of_another_size_does_not_end_a_payload(tmp_path):
    payload = b"12" + struct.pack("<4sLLL", b"PK\x07\x08", 0, 9, 9) + b"PK\x07\x08"
    assert [found for _, found, *_ in walked(tmp_path, described(b"a", payload))] == [payload]


@pytest.mark.parametrize("cut", range(1, 17))
def test_a_payload_is_whole_though_its_descriptor_is_cut(tmp_path, cut):
    (found,) = walked(tmp_path, described(b"a", b"12345")[:-cut], a=5)
    assert found == ("a", b"12345", 5, 0)


def test_a_cut_payload_has_fewer_bytes_than_its_size(tmp_path):
    assert walked(tmp_path, described(b"a", b"12345")[:-19], a=5) == [("a", b"12", 5, 0)]
    assert walked(tmp_path, local(b"a", nbytes=5, size=5) + b"12") == [("a", b"12", 5, 0)]


def test_a_payload_that_is_followed_by_something_else_than_its_claim_allows_ends_the_walk(tmp_path):
    data = local(b"a", flags=8) + b"12345" + bytes(40)
    assert walked(tmp_path, data, a=5) == []


def test_sizes_in_a_zip64_field_are_taken(tmp_path):
    extra = struct.pack("<2H2Q", 1, 16, 3, 3)
    data = local(b"a", nbytes=0xFFFF_FFFF, size=0xFFFF_FFFF, crc=7, extra=extra) + b"123" + described(b"b", b"4")
    assert [(name, payload) for name, payload, *_ in walked(tmp_path, data)] == [("a", b"123"), ("b", b"4")]


def deflated(payload):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(payload) + packer.flush()


def test_a_deflated_payload_ends_where_it_has_been_inflated(tmp_path):
    packed = deflated(bytes(range(256)) * 20)
    data = local(b"a", flags=8, method=DEFLATED) + packed
    data += struct.pack("<4sLLL", b"PK\x07\x08", 99, len(packed), 5120) + described(b"b", b"4")
    assert walked(tmp_path, data)[0] == ("a", packed, 5120, 99)
    assert walked(tmp_path, data)[1][0] == "b"


def test_a_deflated_payload_that_is_cut_is_not_there(tmp_path):
    packed = deflated(bytes(range(256)) * 20)
    assert walked(tmp_path, local(b"a", flags=8, method=DEFLATED) + packed[:-1]) == []
    assert walked(tmp_path, local(b"a", method=DEFLATED, nbytes=len(packed), size=5120) + packed[:-1]) == []


def test_payloads_that_would_inflate_to_more_than_the_limit_end_the_walk(tmp_path):
    packed = deflated(bytes(100 << 20))
    member = local(b"a", flags=8, method=DEFLATED) + packed
    member += struct.pack("<4sLLL", b"PK\x07\x08", 0, len(packed), 100 << 20)
    assert len(walked(tmp_path, member * 3)) == 1


def test_the_walk_ends_at_the_directory(tmp_path):
    with zipfile.ZipFile(out := io.BytesIO(), "w") as archive:
        archive.writestr("a", b"12345")
        archive.writestr("b", b"67")
    assert [name for name, *_ in walked(tmp_path, out.getvalue())] == ["a", "b"]
