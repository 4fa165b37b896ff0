"""Hostile files of every format: a report or a clean error, in little time and memory, and nothing else happens.

The same cases each time; `make fuzz` looks for new ones. A case that fails is saved, and the message names where.
"""

import sys
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.kinds import KINDS, Kind, warm_up
from fuzz.run import check, save
from fuzz.sandbox import Sandbox
from strategies import quick

CASES = 250
"""Of each kind from plain seeds, without what hypothesis costs."""

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux"),
    pytest.mark.xdist_group("fuzz"),
]
kinds = pytest.mark.parametrize("kind", KINDS, ids=[kind.name.replace(",", "").replace(" ", "-") for kind in KINDS])


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(warm_up()) as opened:
        yield opened


@kinds
def test_files_in_order_are_read(kind: Kind, sandbox: Sandbox) -> None:
    for case in kind.whole():
        answer = sandbox.run(case)
        assert (answer["problem"], bool(answer["format"])) == ("", True)


@kinds
def test_a_hostile_file_gives_a_report_or_a_clean_error_and_nothing_else(kind: Kind, sandbox: Sandbox) -> None:
    for seed in range(CASES // kind.every + 1):
        answer, where = check(sandbox, kind, str(seed))
        assert not answer["problem"], f"{where}\n{answer['problem']}"


@kinds
@settings(quick, max_examples=20)
@given(rng=st.randoms(use_true_random=False))
def test_so_does_one_that_hypothesis_chooses(kind: Kind, sandbox: Sandbox, rng: Random) -> None:
    case = kind.make(rng)
    answer = sandbox.run(case)
    assert not answer["problem"], f"{save(case, kind, 'chosen')}\n{answer['problem']}"
