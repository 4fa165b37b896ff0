"""Every case does what the page says of it: harm without protection, and a clean twin that is left alone."""

import pytest
import torch

from benchmarks.faults.case import Kind
from benchmarks.faults.cases import CASES
from benchmarks.faults.protections import Nothing, Torchmend
from benchmarks.faults.scoring import play
from benchmarks.faults.training import Act


def test_names_are_different():
    assert len({each.name for each in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda each: each.name)
def test_a_case_is_whole(case):
    assert case.what.endswith(".")
    assert "#" in case.reported
    assert case.required or case.kind is Kind.BENIGN
    assert case.causes or case.kind is not Kind.STRUCTURAL


@pytest.mark.parametrize("case", CASES, ids=lambda each: each.name)
def test_a_cause_counts_only_where_a_warning_or_a_stop_may(case):
    assert not case.causes or case.required & {Act.WARN, Act.STOP}


@pytest.fixture(params=CASES, ids=lambda each: each.name, scope="module")
def played(request):
    """Run a case and its twin with seed 0, without protection and with torchmend: the case and both scores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        bare, ours = play(request.param, 0, [Nothing, Torchmend])
    finally:
        torch.set_num_threads(threads)
    return request.param, bare, ours


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_without_protection_only_a_benign_case_does_no_harm(played):
    case, bare, _ = played
    assert bare.recovered is (case.kind is Kind.BENIGN), f"clean {bare.clean}, faulty {bare.metric}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torchmend_leaves_the_twin_alone_to_the_last_bit(played):
    _, _, ours = played
    assert ours.twin_equal
    assert ours.false_alarms == 0
