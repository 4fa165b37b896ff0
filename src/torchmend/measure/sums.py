"""CRC-32 of stretches of memory, piece by piece in any number of threads."""

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

_POLYNOMIAL = 0xEDB88320
"""x^32 + x^26 + x^23 + ... + 1 (IEEE 802.3) without its first term; the highest bit belongs to x^0."""

_ONE = 1 << 31


@dataclass(frozen=True, slots=True)
class Sum:
    """The CRC-32 of a stretch of bytes, and its length."""

    crc: int = 0
    nbytes: int = 0

    def followed_by(self, other: "Sum") -> "Sum":
        """Return the sum of this stretch and another right after it."""
        return Sum(joined(self.crc, other.crc, other.nbytes), self.nbytes + other.nbytes)


def sum_of(data: Bytes) -> Sum:
    """Sum contiguous bytes."""
    return Sum(zlib.crc32(data.data), len(data))


def joined(first: int, second: int, nbytes: int) -> int:
    """Return the CRC-32 of two stretches one after the other.

    CRC-32 is linear over GF(2): that of `A` followed by `B` is that of `A` followed by zeros, which is a product
    with a power of x, plus that of `B`.

    Args:
        first: The CRC-32 of A.
        second: The CRC-32 of B.
        nbytes: The length of B.
    """
    return _product(_power(8 * nbytes), first) ^ second


def _product(a: int, b: int) -> int:
    """Multiply two polynomials over GF(2) modulo that of CRC-32."""
    result = 0
    while a:
        if a & _ONE:
            result ^= b
        a = (a << 1) & 0xFFFFFFFF
        b = (b >> 1) ^ (_POLYNOMIAL if b & 1 else 0)
    return result


@lru_cache(maxsize=1024)
def _power(exponent: int) -> int:
    """Return x to a power modulo the polynomial of CRC-32."""
    result, square = _ONE, _ONE >> 1
    while exponent:
        if exponent & 1:
            result = _product(result, square)
        square = _product(square, square)
        exponent >>= 1
    return result
