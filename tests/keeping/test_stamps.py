"""A stamp is believed only of the file that was stamped."""

import json
import os

import pytest

from torchmend.keeping.stamps import Kind, Stamp, signature, stamp_path, valid_stamp, write_stamp


def stamped(path, **changes):
    path.write_bytes(b"whole")
    size, mtime_ns = signature(path)
    facts = {"of": "last.pt", "kind": Kind.VERSION, "number": 1, "saved": "2026-01-01T00:00:00+00:00", "step": 7}
    stamp = Stamp(name=path.name, verdict="healthy", size=size, mtime_ns=mtime_ns, **{**facts, **changes})
    write_stamp(path, stamp, path.with_name(".draft"))
    return stamp


def test_a_stamp_says_what_it_was_given(tmp_path):
    stamp = stamped(tmp_path / "last.pt", codes=("TM101",), metric=0.5, mode="min")
    assert valid_stamp(tmp_path / "last.pt") == stamp


def test_a_stamp_names_the_version_that_wrote_it(tmp_path):
    stamped(tmp_path / "last.pt")
    data = json.loads(stamp_path(tmp_path / "last.pt").read_text())
    assert data["schema"] == 1
    assert data["torchmend"]


@pytest.mark.parametrize("change", ["longer", "later", "renamed", "gone"])
def test_a_file_that_is_another_has_no_valid_stamp(tmp_path, change):
    path = tmp_path / "last.pt"
    stamped(path)
    if change == "longer":
        times = path.stat().st_mtime_ns
        path.write_bytes(b"whole, and more")
        os.utime(path, ns=(times, times))
    if change == "later":
        os.utime(path, (2_000_000_000, 2_000_000_000))
    if change == "renamed":
        stamp_path(path).rename(tmp_path / "other.pt.health.json")
        path = path.rename(tmp_path / "other.pt")
    if change == "gone":
        path.unlink()
    assert valid_stamp(path) is None


def test_a_stamp_that_was_written_ahead_still_fits_what_stands_there(tmp_path):
    path = tmp_path / "last.pt"
    old = stamped(path)
    new = Stamp(name=path.name, of="last.pt", kind=Kind.VERSION, number=2, saved="", verdict="", size=9, mtime_ns=9)
    write_stamp(path, new, tmp_path / ".draft")
    assert valid_stamp(path) == old
    path.write_bytes(bytes(9))
    os.utime(path, ns=(9, 9))
    assert valid_stamp(path) == new


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "3", "null", '{"name": "last.pt"}', "[" * 5000, "\udcff".encode("utf-8", "surrogateescape")],
)
def test_a_malformed_stamp_is_none(tmp_path, text):
    (tmp_path / "last.pt").write_bytes(b"whole")
    stamp_path(tmp_path / "last.pt").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert valid_stamp(tmp_path / "last.pt") is None


@pytest.mark.parametrize(("name", "value"), [("size", "5"), ("codes", "TM1"), ("kind", "king"), ("metric", "0.5")])
def test_a_stamp_with_a_field_of_another_type_is_none(tmp_path, name, value):
    path = tmp_path / "last.pt"
    stamped(path)
    data = json.loads(stamp_path(path).read_text())
    stamp_path(path).write_text(json.dumps({**data, name: value}))
    assert valid_stamp(path) is None
