"""Two processes are scored together, and their part of the page says how they ended."""

import json

import pytest
import torch

from benchmarks.faults.page_pairs import pairs_part
from benchmarks.faults.pairs import GUILTY, PAIRS
from benchmarks.faults.playing_pairs import PROTECTIONS, PairScore, pair_score, play_pairs
from fault_scores import pair_score as a_score

END = {"metric": 0.9, "sound": True, "digest": "d", "weights": "w", "acts": ["undo"], "ranks": []}


def scored(*faulty, twin=({}, {})):
    plain = [END, {**END, "digest": "e"}]
    twins = [{**each, **change} for each, change in zip(plain, twin, strict=True)]
    return pair_score("pair", "torchmend", 0, plain, twins, [{**END, **each} for each in faulty])


def test_both_end_well_or_none_does():
    assert scored({}, {}).is_healthy
    assert not scored({}, {"weights": "x"}).is_healthy
    assert not scored({}, {"sound": False}).is_healthy
    assert not scored({"metric": 0.8}, {}).is_healthy


@pytest.mark.parametrize(("ranks", "named", "right"), [([], None, False), ([0], 0, False), ([GUILTY, 0], GUILTY, True)])
def test_the_first_process_that_is_named_counts(ranks, named, right):
    found = scored({"ranks": ranks}, {"ranks": ranks})
    assert (found.named, found.names_rank) == (named, right)


@pytest.mark.parametrize(("change", "equal"), [({}, True), ({"digest": "other"}, False)])
def test_the_twin_is_compared_on_both(change, equal):
    assert scored({}, {}, twin=({}, change)).twin_equal is equal


def test_a_score_of_a_pair_goes_through_json():
    assert PairScore.from_json(json.loads(json.dumps(a_score().as_json()))) == a_score()


def part(*scores):
    pair = next(each for each in PAIRS if each.name == "pair_loss")
    text = pairs_part({"pairs": [each.as_json() for each in scores]}, [pair], ["torchmend"])
    return text, next((each for each in text.splitlines() if each.startswith("| pair_loss")), "")


def test_a_cell_tells_how_both_ended_and_who_was_named():
    assert part(a_score())[1].endswith("| **1 of 1**; 1.00; undo; names 1 (1 of 1 right) |")
    other = a_score(sound=False, identical=False, relative=0.5, acts=(), named=None)
    assert part(other)[1].endswith("| 0 of 1; 0.50; not finite; weights differ; nothing; names neither |")


def test_the_part_sums_up_what_ended_well():
    assert "torchmend: 1 of 1 case end well, the process is named in 1," in part(a_score())[0]
    assert "torchmend: 0 of 1 case end well" in part(a_score(), a_score(seed=1, identical=False))[0]


def test_without_pairs_there_is_no_part():
    assert pairs_part({}, PAIRS, ["torchmend"]) == ""


@pytest.mark.slow
def test_a_fault_of_one_process_is_undone_on_both_and_harms_both_without():
    bare, ours = play_pairs([0], ["pair_buffers"])
    assert [each.name for each in PROTECTIONS] == [bare.protection, ours.protection]
    assert not bare.is_healthy
    assert ours.is_healthy
    assert ours.names_rank
    assert ours.twin_equal


def test_a_process_draws_its_own_batches_and_only_the_faulty_one_is_broken():
    pair = next(each for each in PAIRS if each.name == "pair_loss")
    losses = []
    for rank in range(2):
        torch.manual_seed(0)
        losses.append(pair.make(0, rank, rank == GUILTY, lambda model: model).loss(60))
    assert losses[0].isfinite()
    assert losses[GUILTY].isnan()
