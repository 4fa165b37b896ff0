"""Two processes that train together take the same decisions at the same steps, and hold the same weights afterwards."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from live.guard.training import batch, kept, net, same, train
from torchmend.live.guard.guard import Guard


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
    assert len(outcomes) == 30


def test_statistics_of_synchronised_layers_are_undone():
    """In one process: torch runs these layers in several on accelerators only."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(net())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer) as guard:
        state = kept(model, optimizer)
        train(model, optimizer, *batch(0, bad=float("nan")))
        assert guard.events.counts["refuse"] == 1
        assert same(kept(model, optimizer), state)
