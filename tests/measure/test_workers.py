import math
import os

import pytest

from torchmend.measure import workers as module
from torchmend.measure.workers import Machine, _busy, _quota, available_cores, this_machine, workers


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (Machine(cores=1, online=1), 1),
        (Machine(cores=8, online=8), 8),
        (Machine(cores=8, online=8, busy=0.4), 8),
        (Machine(cores=8, online=8, busy=3.0), 5),
        (Machine(cores=2, online=2, busy=1.0), 1),
    ],
)
def test_there_is_a_thread_for_each_free_core(machine, expected):
    assert workers(machine) == expected


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 1), (3, 2), (8, 4)])
def test_where_all_cores_are_busy_half_of_them_is_used(cores, expected):
    assert workers(Machine(cores=cores, online=cores, busy=100.0)) == expected


def test_cores_that_the_process_may_not_use_can_be_the_busy_ones():
    assert workers(Machine(cores=4, online=64, busy=50.0)) == 4


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1.0, 1), (1.5, 2), (3.0, 3), (100.0, 8), (math.inf, 8)])
def test_a_limit_on_processor_time_is_a_limit_on_threads(quota, expected):
    assert workers(Machine(cores=8, online=8, quota=quota)) == expected


def test_this_machine_has_at_least_one_core_and_can_be_worked_on():
    machine = this_machine()
    assert 1 <= machine.cores <= machine.online
    assert 1 <= workers(machine) <= machine.cores


def test_there_is_at_least_one_core():
    assert available_cores() >= 1


# The load


@pytest.fixture
def load(monkeypatch, tmp_path):
    def give(average, running=None):
        monkeypatch.setattr(os, "getloadavg", lambda: (average, 9.0, 9.0), raising=False)
        if running is not None:
            (tmp_path / "loadavg").write_text(f"{average} 9.0 9.0 {running}/99 1234\n")
        return _busy(tmp_path)

    return give


def test_a_load_that_is_over_does_not_count(load):
    assert load(4.0, running=1) == 0


def test_what_runs_for_a_moment_does_not_count(load):
    assert load(0.25, running=9) == 0.25


def test_this_process_is_not_among_the_others(load):
    assert load(4.0, running=3) == 2


def test_where_only_the_average_is_known_it_is_taken(load):
    assert load(2.5) == 2.5


def test_a_table_of_processes_that_cannot_be_read_leaves_the_average(load, tmp_path):
    (tmp_path / "loadavg").write_text("nonsense")
    assert load(2.5) == 2.5


def test_where_the_load_is_not_told_nobody_is_busy(monkeypatch):
    monkeypatch.delattr(os, "getloadavg", raising=False)
    assert _busy() == 0


# Limits of control groups


def group(tmp_path, name, files):
    folder = tmp_path / "root" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file).write_text(text)


def quota(tmp_path, own="0::/\n"):
    (tmp_path / "own").write_text(own)
    return _quota(tmp_path / "root", tmp_path / "own")


def test_a_container_sees_its_limit_at_the_root(tmp_path):
    group(tmp_path, "", {"cpu.max": "150000 100000\n"})
    assert quota(tmp_path) == 1.5


def test_the_tightest_limit_on_the_way_to_the_root_counts(tmp_path):
    group(tmp_path, "a/b", {"cpu.max": "max 100000\n"})
    group(tmp_path, "a", {"cpu.max": "200000 100000\n"})
    group(tmp_path, "other", {"cpu.max": "100000 100000\n"})
    assert quota(tmp_path, "0::/a/b\n") == 2


def test_the_first_version_of_control_groups_tells_its_limit_in_two_files(tmp_path):
    group(tmp_path, "cpu", {"cpu.cfs_quota_us": "300000\n", "cpu.cfs_period_us": "100000\n"})
    assert quota(tmp_path, "4:cpu:/\n0::/\n") == 3


@pytest.mark.parametrize("text", ["max 100000\n", "", "nonsense\n", "0 0\n"])
def test_no_limit_is_no_limit(tmp_path, text):
    group(tmp_path, "", {"cpu.max": text})
    group(tmp_path, "cpu", {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"})
    assert quota(tmp_path) == math.inf


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert _quota(tmp_path / "root", tmp_path / "own") == math.inf


def test_the_reading_of_the_machine_is_put_together_from_its_parts(monkeypatch):
    monkeypatch.setattr(module, "_busy", lambda: 1.5)
    monkeypatch.setattr(module, "_quota", lambda: 2.5)
    assert (this_machine().busy, this_machine().quota) == (1.5, 2.5)
