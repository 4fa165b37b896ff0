"""`torchmend replay`: a failing batch run again, by the user's own model."""

import json
import sys
from pathlib import Path

import pytest

from checkpoints import torchmend
from live.forensics.faults import FAULTS
from live.forensics.runs import incident_of, into

USERS = """
from live.forensics.faults import FAULTS, plain_net

make = FAULTS["zero_vector_in_the_loss"].model
loss = FAULTS["zero_vector_in_the_loss"].loss

def several():
    return [make()]

def fails():
    raise RuntimeError("no accelerator here")

def needs_more(width):
    return make()
"""


@pytest.fixture
def capsule(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users_replay.py").write_text(USERS)
    monkeypatch.delitem(sys.modules, "users_replay", raising=False)
    _, guard = into(FAULTS["zero_vector_in_the_loss"], capsules="capsules")
    return incident_of(guard).capsule


def test_it_says_what_was_found_then_and_what_is_found_here(capsule):
    outcome = torchmend("replay", capsule, "--model", "users_replay:make", "--loss", "users_replay:loss")
    assert outcome.rc == 0
    lines = outcome.stdout.splitlines()
    assert lines[0] == "then     the loss code after module 2 produced Inf in the forward pass"
    assert lines[1] == "here     the loss code after module 2 produced Inf in the forward pass"
    assert lines[2].startswith("how      div in float32 at faults.py:")
    assert lines[3] == "examples 5 of 8 (counted from 0)"
    assert lines[-1] == "so       reproduced; precision is not the cause: it happens in float64 as well"


def test_without_the_loss_it_says_that_it_needs_it(capsule):
    outcome = torchmend("replay", capsule, "--model", "users_replay:several")
    assert outcome.rc == 0
    assert "give the loss (--loss)" in outcome.stdout.splitlines()[-1]


def test_as_json(capsule):
    outcome = torchmend("replay", capsule, "--model", "users_replay:make", "--loss", "users_replay:loss", "--json")
    told = json.loads(outcome.stdout)
    assert told["reproduced"]
    assert told["now"]["operation"] == "div"
    assert told["now"]["samples"] == [5]


def test_what_is_not_reproduced_exits_with_one(capsule):
    record = Path(capsule) / "capsule.json"
    told = json.loads(record.read_text())
    told["incident"]["module"], told["incident"]["cause"] = "0", "module"
    record.write_text(json.dumps(told))
    outcome = torchmend("replay", capsule, "--model", "users_replay:make")
    assert outcome.rc == 1
    assert "not reproduced" in outcome.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["nowhere", "--model", "users_replay:make"], "There is no folder nowhere. Give the folder of a capsule"),
        ([".", "--model", "users_replay:make"], "is no capsule: it has no capsule.json"),
        (["capsules/step_000002", "--model", "users_replay:gone"], "users_replay has no gone"),
        (["capsules/step_000002", "--model", "users_replay.py"], "not the path of a file"),
        (["capsules/step_000002", "--model", "users_replay:plain_net"], "does not fit the model"),
        (["capsules/step_000002", "--model", "users_replay:fails"], "failed with RuntimeError: no accelerator here"),
        (["capsules/step_000002", "--model", "users_replay:make", "--device", "tpu9"], "tpu9"),
    ],
)
def test_mistakes_are_told(capsule, given, said):
    outcome = torchmend("replay", *given)
    assert outcome.rc == 2
    assert said in outcome.stderr
    assert not outcome.stdout
