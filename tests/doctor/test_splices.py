"""Splices tell exactly where a repaired file differs from its original, also when lengths change."""

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from strategies import quick
from torchmend.doctor.splices import Splice, composed, old_ranges


def rewrite(source: bytes, cuts: list[tuple[int, int]], rng: random.Random) -> tuple[bytes, list[Splice]]:
    """Replace stretches of the source by others of any length."""
    result, splices, at = b"", [], 0
    for start, end in cuts:
        result += source[at:start]
        new = rng.randbytes(rng.randrange(0, 12))
        splices.append(Splice(offset=len(result), length=len(new), old=end - start))
        result += new
        at = end
    return result + source[at:], splices


def undone(result: bytes, source: bytes, splices: tuple[Splice, ...]) -> bytes:
    made, at = b"", 0
    for splice, (start, length) in zip(splices, old_ranges(splices), strict=True):
        made += result[at : splice.offset] + source[start : start + length]
        at = splice.end
    return made + result[at:]


@quick
@given(st.integers(0, 2**31))
def test_composed_splices_give_the_original_back(seed):
    rng = random.Random(seed)
    source = rng.randbytes(100)
    marks = sorted(rng.sample(range(100), 2 * rng.randrange(1, 5)))
    middle, rewritten = rewrite(source, list(zip(marks[::2], marks[1::2], strict=True)), rng)
    patched, result = [], bytearray(middle)
    if middle:
        for _ in range(rng.randrange(4)):
            start = rng.randrange(len(middle))
            end = min(len(middle), start + rng.randrange(1, 9))
            result[start:end] = rng.randbytes(end - start)
            patched.append((start, end - start))
    merged = composed(sorted(set(patched)), rewritten)
    assert undone(bytes(result), source, merged) == source
    assert all(a.end <= b.offset for a, b in itertools.pairwise(merged))
