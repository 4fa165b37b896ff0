"""Hashes of a file and its patched copy are those of their bytes, wherever the first change is."""

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from torchmend.doctor import hashing
from torchmend.doctor.hashing import TwinHash, sha256_of


def pair(tmp_path, size, change):
    data = random.Random(size).randbytes(size)
    patched = bytearray(data)
    if change < size:
        patched[change] ^= 255
    copy = tmp_path / "copy"
    copy.write_bytes(patched)
    return data, bytes(patched), copy


@pytest.mark.parametrize("size", [1, 1000, 5000, 8192])
@pytest.mark.parametrize("change", [0, 1, 999, 1000, 4096, 5000, 8191, 10_000])
def test_both_digests_are_right(tmp_path, monkeypatch, size, change):
    monkeypatch.setattr(hashing, "_PIECE", 500)
    monkeypatch.setattr(hashing, "_KEPT_EVERY", 1000)
    data, patched, copy = pair(tmp_path, size, change)
    with ThreadPoolExecutor(2) as pool, TwinHash(data, pool) as hashes:
        digest = hashes.hash_copy(copy, min(change, size)).result()
        assert hashes.source_digest() == hashlib.sha256(data).hexdigest()
    assert digest == hashlib.sha256(patched).hexdigest()


def test_leaving_early_stops_the_hashing(tmp_path):
    data, _, copy = pair(tmp_path, 1 << 16, 5)

    with ThreadPoolExecutor(2) as pool, TwinHash(data, pool) as hashes:
        hashing_copy = hashes.hash_copy(copy, 5)
    assert hashing_copy.done()


def test_a_file_is_hashed_whole(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 1000)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(b"abc" * 1000).hexdigest()
