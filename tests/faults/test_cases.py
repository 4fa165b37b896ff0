"""Every case does what the page says of it: harm without protection, and a clean twin that is left alone."""

import pytest
import torch

from benchmarks.faults.case import Kind
from benchmarks.faults.cases import CASES
from benchmarks.faults.ours import Torchmend
from benchmarks.faults.places import Side
from benchmarks.faults.protections import Nothing
from benchmarks.faults.scoring import play
from benchmarks.faults.training import Act
from benchmarks.faults.truths import TRUTHS


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


def test_of_every_case_it_is_said_where_it_is_and_of_no_other():
    assert set(TRUTHS) == {each.name for each in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda each: each.name)
def test_a_case_has_a_place_or_a_reason_why_it_has_none(case):
    assert case.truth.is_localisable is not bool(case.truth.because)
    assert bool(case.truth.names) is bool({Side.MODULE, Side.STATE} & set(case.truth.sides))


@pytest.mark.parametrize("case", [each for each in CASES if each.truth.names], ids=lambda each: each.name)
def test_the_names_of_a_place_are_of_the_model(case):
    torch.manual_seed(0)
    model = case.make(0, True).model
    own = {name or type(each).__name__ for name, each in model.named_modules()}
    assert set(case.truth.names) <= own | {name for name, _ in (*model.named_parameters(), *model.named_buffers())}


@pytest.fixture(params=CASES, ids=lambda each: each.name, scope="module")
def played(request):
    """Run a case and its twin with seed 0, without protection and with torchmend: the case and both scores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        bare, ours = play(request.param, 0, [Nothing, Torchmend]).scores
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
