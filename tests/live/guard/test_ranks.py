"""Two processes that train together take the same decisions at the same steps, and hold the same weights afterwards."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import torchmend
from live.guard.training import batch, kept, net, same, train
from torchmend.facts.codes import Code, Severity
from torchmend.live.guard.decisions import Action, Decision
from torchmend.live.guard.events import data, told
from torchmend.live.guard.guard import Guard
from torchmend.live.guard.ranks import apart, standing_out
from torchmend.rules.evidence import finding


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Run all scenarios once: by name, what each rank did."""
    script = Path(__file__).with_name("distributed_run.py")
    store = tmp_path_factory.mktemp("ranks") / "store"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(store)],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return {(name, rank): outcome for name, rank, outcome in told}


@pytest.mark.parametrize(
    ("scenario", "origin", "batches", "seen_by"),
    [
        ("statistics", "2.running_var", 6, 1),
        ("statistics that are broadcast", "2.running_var", 6, 1),
        ("loss", "2.running_mean", 6, 1),
        ("loss, gradients in buckets", "2.running_mean", 6, 1),
        ("buffer", "0.one", 6, 1),
        ("accumulation", "2.running_mean", 12, 1),
        ("accumulation of statistics", "2.running_var", 12, 1),
        ("not watched by one", "2.running_var", 6, 0),
    ],
)
def test_what_one_rank_sees_all_refuse_and_name_it(outcomes, scenario, origin, batches, seen_by):
    for rank in range(2):
        assert outcomes[scenario, rank] == {
            "together": True,
            "decisions": [[3, "refuse", origin, seen_by]],
            "stopped": None,
            "buffers finite": True,
            "batches": batches,
            "steps": 6,
        }


def test_a_micro_batch_that_one_rank_drops_all_drop(outcomes):
    for rank in range(2):
        outcome = outcomes["dropped micro-batch", rank]
        assert outcome["together"]
        assert (outcome["batches"], outcome["steps"]) == (13, 7)


def test_faults_count_by_the_same_origin_on_all_ranks_so_that_they_stop_together(outcomes):
    for rank in range(2):
        outcome = outcomes["buffers in turn", rank]
        assert outcome["decisions"] == [
            [1, "refuse", "0.one", 1],
            [2, "refuse", "0.two", 1],
            [3, "stop", "0.one", 1],
        ]
        assert outcome["buffers finite"]


@pytest.mark.parametrize("scenario", ["weight", "weight, and nothing to go back to", "moment"])
def test_what_one_rank_damaged_it_takes_from_another_so_that_no_step_is_lost(outcomes, scenario):
    for rank in range(2):
        outcome = outcomes[scenario, rank]
        assert outcome["together"]
        assert outcome["decisions"] == [[7, "repair", "", 1]]
        assert outcome["steps"] == 7


def test_statistics_that_one_rank_damaged_it_repairs_by_itself_and_all_are_told(outcomes):
    for rank in range(2):
        outcome = outcomes["statistic", rank]
        assert outcome["together"]
        assert outcome["buffers finite"]
        assert outcome["decisions"] == [[7, "repair", "", 1]]


def test_all_ranks_go_back_when_the_weights_of_all_are_damaged(outcomes):
    for rank in range(2):
        outcome = outcomes["weight of all", rank]
        assert outcome["together"]
        assert outcome["decisions"] == [[7, "roll back", "", None]]


def test_all_ranks_stop_when_there_is_nothing_to_go_back_to(outcomes):
    for rank in range(2):
        why = outcomes["weight of all, and nothing to go back to", rank]["stopped"]
        assert "1.weight cannot be repaired" in why


def test_a_verdict_that_stays_on_the_device_is_refused_aloud(outcomes):
    assert not [name for name, _ in outcomes if name == "lazy"]
    assert len(outcomes) == 32


@pytest.fixture(scope="module")
def loops(tmp_path_factory):
    """Run whole training loops once, started by torchrun: what each of two ranks held afterwards."""
    script, folder = Path(__file__).with_name("agreement_run.py"), tmp_path_factory.mktemp("loops")
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(script), str(folder)],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    lines = [json.loads(line) for rank in range(2) for line in (folder / f"{rank}.jsonl").read_text().splitlines()]
    return ranks, lines, sorted((folder / "capsules").iterdir())


IN_COMMON = ("weights", "average", "moments", "schedule", "scaler", "guard", "decisions", "stopped", "incidents")

REFUSED = [
    "statistics",
    "statistics, sent",
    "statistics, synchronised",
    "statistics, early part",
    "statistics, last part",
    "input",
    "input, synchronised",
    "input, early part",
    "gradient",
    "gradient, early part",
    "gradient, in buckets",
    "outlier",
    "dropped early part",
    "dropped last part",
    "dropped last part, in buckets",
]


@pytest.mark.parametrize("case", REFUSED)
def test_both_ranks_refuse_what_rank_1_did_and_go_on_as_if_it_had_never_come(loops, case):
    for rank in loops[0]:
        spoiled, clean = rank["spoiled"][case], rank["clean"][case]
        assert spoiled["decisions"] == [[5, "refuse", 1, False]]
        assert {**spoiled, "guard": "", "decisions": [], "incidents": []} == {**clean, "guard": ""}
        assert spoiled["finite"]


@pytest.mark.parametrize("case", [*REFUSED, "loss", "scaler", "scaler, input", "weight", "back", "stop"])
def test_ranks_hold_the_same_to_the_last_bit_whatever_goes_wrong_on_one(loops, case):
    first, second = (rank["spoiled"][case] for rank in loops[0])
    assert {name: first[name] for name in IN_COMMON} == {name: second[name] for name in IN_COMMON}


@pytest.mark.parametrize(
    ("case", "decisions"),
    [
        ("loss", [[5, "log", 1, False]]),
        ("scaler", [[5, "refuse", 1, True]]),
        ("scaler, input", [[5, "refuse", 1, True]]),
        ("weight", [[5, "refuse", 1, False], [6, "repair", 1, False]]),
        ("back", [[5, "refuse", 1, False], [6, "roll back", 1, False]]),
        ("stop", [[5, "refuse", 1, False], [6, "stop", 1, False]]),
    ],
)
def test_whatever_is_decided_names_the_rank_that_the_fault_was_on(loops, case, decisions):
    for rank in loops[0]:
        assert rank["spoiled"][case]["decisions"] == decisions


def test_a_weight_that_is_damaged_on_one_rank_costs_the_step_that_showed_it_and_no_more(loops):
    for rank in loops[0]:
        spoiled, clean = rank["spoiled"]["weight"], rank["clean"]["weight"]
        assert {**spoiled, "guard": "", "decisions": [], "incidents": []} == {**clean, "guard": ""}


@pytest.mark.parametrize(
    ("case", "cause", "module", "exchanges"),
    [
        ("statistics", "module", "1", False),
        ("statistics, last part", "module", "1", False),
        ("statistics, synchronised", "module", "1", True),
        ("input", "input", "argument 0 of the model", False),
        ("input, synchronised", "input", "argument 0 of the model", True),
        ("gradient", "loss", "3", False),
        ("scaler, input", "input", "argument 0 of the model", False),
        ("weight", "parameter", "0.weight", False),
    ],
)
def test_both_ranks_run_their_batches_again_and_tell_what_was_wrong_on_rank_1(loops, case, cause, module, exchanges):
    first, second = (rank["spoiled"][case]["incidents"] for rank in loops[0])
    assert first == second
    assert first[0][:4] == [1, cause, module, exchanges]
    assert first[0][4].startswith("Incident at step 5 on rank 1")


def test_both_ranks_are_stopped_with_an_explanation(loops):
    for rank in loops[0]:
        assert "the fault is in the set-up" in rank["spoiled"]["stop"]["stopped"]


def test_an_overflow_of_one_rank_lowers_the_scale_and_undoes_the_statistics_of_both(loops):
    for rank in loops[0]:
        spoiled, clean = rank["spoiled"]["scaler"], rank["clean"]["scaler"]
        assert spoiled["scaler"] != clean["scaler"]
        assert [spoiled[name] for name in ("weights", "buffers")] == [clean[name] for name in ("weights", "buffers")]


def test_the_lines_of_both_ranks_name_the_rank(loops):
    assert [(line["step"], line["action"], line["rank"]) for line in loops[1]] == [(5, "refuse", 1)] * 2


def test_the_rank_at_fault_keeps_its_batch_and_both_tell_where(loops):
    _, lines, capsules = loops
    assert [each.name for each in capsules] == ["step_000005_rank_1"]
    assert [line["incident"]["capsule"] for line in lines] == [str(capsules[0])] * 2
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1))
    assert torchmend.replay(capsules[0], model).reproduced


def test_uneven_inputs_are_refused_aloud(loops):
    for rank in loops[0]:
        assert "does not support uneven inputs" in rank["uneven"]


def test_a_rank_that_trains_in_a_group_of_its_own_asks_nobody(loops):
    first_lines = [[each.partition("\n")[0] for each in rank["alone"]] for rank in loops[0]]
    assert first_lines == [[], ["step 1: refuse: TM601 weight: norm nan"]]


def test_a_wrapper_is_known_inside_of_a_compiled_model(loops):
    assert [rank["compiled"] for rank in loops[0]] == [[True, True, False]] * 2


def test_a_guard_of_the_module_inside_the_wrapper_says_that_each_rank_decides_alone(loops):
    for rank in loops[0]:
        assert "pass the wrapper to the guard" in rank["inside"][0]


def test_when_one_rank_fails_the_other_gets_the_error_of_torch_and_hangs_no_longer_than_its_timeout(loops):
    assert [rank["left"] for rank in loops[0]] == ["RuntimeError", ""]


@pytest.mark.parametrize(
    ("signs", "rank"), [([False, True], 1), ([True, False, True], 0), ([True, True], None), ([False, False], None)]
)
def test_a_rank_is_named_by_what_not_all_of_them_show(signs, rank):
    assert apart(signs) == rank


@pytest.mark.parametrize(
    ("figures", "rank"), [([1.0, 9.0], 1), ([9.0, 1.0, 2.0], 0), ([5.0, 4.0], None), ([-9.0, -1.0], None)]
)
def test_a_rank_is_named_by_a_figure_that_is_far_above_those_of_the_others(figures, rank):
    assert standing_out(figures, 2.0) == rank


def test_a_decision_that_names_a_rank_is_told_with_it():
    found = finding(Code.GRADIENT_NOT_FINITE, Severity.ERROR, detail="0.weight: norm nan")
    decision = Decision(action=Action.REFUSE, step=3, findings=(found,), rank=1)
    assert told(decision) == "step 3: refuse: on rank 1, TM601 0.weight: norm nan"
    assert data(decision)["rank"] == 1


def test_statistics_of_synchronised_layers_are_undone():
    """In one process: torch runs these layers in several on accelerators only."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(net())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer) as guard:
        state = kept(model, optimizer)
        train(model, optimizer, *batch(0, bad=float("nan")))
        assert guard.events.counts["refuse"] == 1
        assert same(kept(model, optimizer), state)
