import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import quick
from torchmend.measure.sums import Sum, joined, sum_of


def bytes_of(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


@quick
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_the_sums_of_two_stretches_joined_are_that_of_both(a: bytes, b: bytes) -> None:
    assert joined(zlib.crc32(a), zlib.crc32(b), len(b)) == zlib.crc32(a + b)


@quick
@given(st.lists(st.binary(max_size=50), max_size=6))
def test_pieces_followed_by_one_another_are_the_whole(pieces: list[bytes]) -> None:
    total = Sum()
    for piece in pieces:
        total = total.followed_by(sum_of(bytes_of(piece)))
    whole = b"".join(pieces)
    assert total == Sum(zlib.crc32(whole), len(whole))


@pytest.mark.parametrize("nbytes", [1, 65_537, (16 << 20) + 3])
def test_a_long_second_stretch_is_joined_as_exactly(nbytes: int) -> None:
    data = np.random.default_rng(1).integers(0, 256, nbytes, np.uint8).tobytes()
    assert joined(zlib.crc32(b"first"), zlib.crc32(data), nbytes) == zlib.crc32(b"first" + data)
