"""The journal covers every byte that changed, and stays short whatever the pattern."""

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from strategies import quick
from torchmend.doctor.journal import Journal

additions = st.lists(st.tuples(st.lists(st.integers(0, 400), max_size=20), st.integers(1, 9)), max_size=12)


def filled(added, most):
    journal, truth = Journal(most), np.zeros(500, dtype=bool)
    for starts, length in added:
        journal.add(np.array(starts, dtype=np.int64), length)
        for start in starts:
            truth[start : start + length] = True
    return journal.ranges(), truth


def covered(ranges):
    mask = np.zeros(500, dtype=bool)
    for offset, length in ranges:
        mask[offset : offset + length] = True
    return mask


@quick
@given(additions)
def test_with_room_enough_exactly_the_added_bytes_are_covered(added):
    ranges, truth = filled(added, most=1000)
    assert (covered(ranges) == truth).all()


@quick
@given(additions, st.integers(2, 10))
def test_with_little_room_no_added_byte_is_lost_and_the_list_stays_short(added, most):
    ranges, truth = filled(added, most)
    assert covered(ranges)[truth].all()
    assert len(ranges) <= most


@quick
@given(additions, st.integers(2, 10))
def test_ranges_are_sorted_and_neither_overlap_nor_touch(added, most):
    ranges, _ = filled(added, most)
    ends = ranges.sum(axis=1)
    assert (ranges[1:, 0] > ends[:-1]).all()


def test_the_widest_gaps_stay():
    journal = Journal(4)
    journal.add(np.array([0, 2, 4, 6, 1000, 1002, 5000]), 1)
    assert journal.ranges().tolist() == [[0, 1003], [5000, 1]] or journal.ranges().tolist() == [[0, 7], [1000, 4001]]


def test_nothing_added_gives_no_ranges():
    assert Journal().ranges().shape == (0, 2)


def test_memory_is_bounded_for_scattered_single_elements_over_two_gigabytes():
    journal = Journal()
    tracemalloc.start()
    try:
        for start in range(0, 2 << 30, 1 << 25):
            journal.add(np.arange(start, start + (1 << 25), 1 << 9), 4)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
    ranges = journal.ranges()
    assert len(ranges) <= journal.most
    assert ranges[0, 0] == 0
    assert ranges[-1].sum() >= (2 << 30) - (1 << 9) + 4
