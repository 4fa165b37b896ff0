"""Overlaps, unreferenced bytes, duplicate names and wrong checksums, in files made for it."""

import io
import json
import zipfile

import pytest
import torch

import checkpoints
from torchmend.doctor.diagnosing import diagnose_file
from torchmend.facts.codes import Code, Severity
from torchmend.formats.layout import Piece, duplicates, overlaps
from torchmend.formats.registry import read_contents


def codes_of(path):
    return [oddity.code for oddity in read_contents(path).oddities]


def saved(tmp_path, value):
    path = tmp_path / "x.pth"
    torch.save(value, path)
    return path


def safetensors_file(tmp_path, entries, data=b"\0" * 32):
    header = json.dumps(entries) if isinstance(entries, dict) else entries
    raw = header.encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


def entry(start, end):
    return {"dtype": "F32", "shape": [(end - start) // 4], "data_offsets": [start, end]}


def test_what_torch_saves_is_not_odd(tmp_path):
    assert codes_of(saved(tmp_path, checkpoints.training_checkpoint())) == []


def test_tied_weights_and_views_of_whole_storages_are_not_odd(tmp_path):
    base = torch.randn(64, 64)
    assert codes_of(saved(tmp_path, {"a": base, "b": base, "t": base.t(), "half": base[:32]})) == []


def test_a_slice_that_drags_its_storage_along_is_told(tmp_path):
    path = saved(tmp_path, {"first": torch.randn(100_000)[:10]})
    (oddity,) = read_contents(path).oddities
    assert oddity.code is Code.UNREFERENCED
    assert "399,960 bytes" in oddity.detail


def test_a_storage_that_no_tensor_uses_is_told_by_name(tmp_path):
    path = saved(tmp_path, {"a": torch.randn(4)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/data/77", b"\1" * 100)
    (oddity,) = read_contents(path).oddities
    assert oddity.code is Code.UNREFERENCED
    assert "x/data/77" in oddity.detail


def test_a_member_that_stands_twice_is_told_by_name(tmp_path):
    path = saved(tmp_path, {"a": torch.randn(4)})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("x/version", b"3\n")
    assert [(o.code, o.detail) for o in read_contents(path).oddities] == [(Code.DUPLICATE_NAMES, "x/version")]


def test_members_that_share_bytes_are_told(tmp_path):
    path = saved(tmp_path, {"a": torch.randn(64), "b": torch.randn(64)})
    data = bytearray(path.read_bytes())
    first, second = (data.rfind(b"PK\x01\x02", 0, data.rfind(name)) for name in (b"x/data/0", b"x/data/1"))
    data[second + 42 : second + 46] = data[first + 42 : first + 46]  # the second's header is the first's
    path.write_bytes(data)
    (oddity,) = [o for o in read_contents(path).oddities if o.code is Code.OVERLAPPING]
    assert "x/data/0 and x/data/1" in oddity.detail or "x/data/1 and x/data/0" in oddity.detail


def test_safetensors_that_tile_their_file_are_not_odd(tmp_path):
    path = safetensors_file(tmp_path, {"a": entry(0, 16), "b": entry(16, 32)})
    assert codes_of(path) == []


def test_safetensors_that_overlap_are_told(tmp_path):
    path = safetensors_file(tmp_path, {"a": entry(0, 20), "b": entry(16, 32)})
    (oddity,) = read_contents(path).oddities
    assert (oddity.code, oddity.detail) == (
        Code.OVERLAPPING,
        f"a and b share 4 bytes at byte {path.stat().st_size - 16:,}",
    )


def test_bytes_behind_the_last_of_the_safetensors_are_told_from_64_kib_on(tmp_path):
    entries = {"a": entry(0, 32)}
    assert codes_of(safetensors_file(tmp_path, entries, b"\0" * 64)) == []
    assert codes_of(safetensors_file(tmp_path, entries, b"\0" * 70_000)) == [Code.UNREFERENCED]


def test_a_safetensors_name_that_stands_twice_is_told(tmp_path):
    one = json.dumps(entry(0, 32))
    path = safetensors_file(tmp_path, f'{{"a": {one}, "a": {one}}}')
    assert Code.DUPLICATE_NAMES in codes_of(path)


def test_the_number_of_overlapping_pairs_is_told():
    pieces = [Piece(name=str(n), start=0, end=10) for n in range(4)]
    (oddity,) = overlaps(pieces)
    assert "and 2 more pairs" in oddity.detail


def test_pieces_that_touch_do_not_overlap():
    assert list(overlaps([Piece(name="a", start=0, end=10), Piece(name="b", start=10, end=20)])) == []


def test_the_number_of_duplicate_names_is_told():
    (oddity,) = duplicates(["a", "b", "a", "b", "c"])
    assert oddity.detail == "a and 1 more"


# Checksums


def flipped(path, name="x/data/0"):
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x03\x04", info.header_offset)
    length = int.from_bytes(data[at + 26 : at + 28], "little") + int.from_bytes(data[at + 28 : at + 30], "little")
    data[at + 30 + length] ^= 1
    path.write_bytes(data)


def findings(path, **options):
    return [(f.code, f.severity, f.detail) for f in diagnose_file(path, **options).findings]


def test_a_flipped_bit_is_found_when_checksums_are_verified(tmp_path):
    path = saved(tmp_path, {"a": torch.randn(64), "b": torch.randn(64)})
    flipped(path)
    ((code, severity, detail),) = findings(path, verify_checksums=True)
    assert (code, severity) == (Code.WRONG_CHECKSUM, Severity.ERROR)
    assert "x/data/0" in detail


def test_a_flipped_bit_is_not_looked_for_otherwise(tmp_path):
    path = saved(tmp_path, {"a": torch.randn(64)})
    flipped(path)
    assert findings(path) == []


def test_right_checksums_give_nothing(tmp_path):
    path = saved(tmp_path, checkpoints.training_checkpoint())
    assert findings(path, verify_checksums=True) == []


def test_checksums_that_were_never_computed_give_nothing(tmp_path):
    path = tmp_path / "x.pth"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.randn(64)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert findings(path, verify_checksums=True) == []


def test_verifying_tells_how_far_it_is(tmp_path):
    path = saved(tmp_path, {"a": torch.randn(4096)})
    told = []
    diagnose_file(path, lambda done, total: told.append((done, total)), verify_checksums=True)
    assert sum(done for done, _ in told) == told[0][1]


def test_an_archive_made_by_another_tool_is_not_odd(tmp_path):
    path = saved(tmp_path, {"a": torch.randn(64)})
    stream = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(stream, "w") as copy:
        for info in archive.infolist():
            copy.writestr(info.filename, archive.read(info))
    path.write_bytes(stream.getvalue())
    assert codes_of(path) == []
