"""A capsule that one process wrote is replayed by another."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import torchmend
from live.forensics.faults import FAULTS, Fault, mean_loss, plain_net, root_net, seeded, with_row
from live.forensics.runs import incident_of, into

HERE = Path(__file__).parent
STEPS = {"random_mask": (True,) * 6}


@pytest.fixture(scope="module")
def replays(tmp_path_factory):
    """What a fresh process says of a capsule of each fault, without the loss and with it."""
    folder = tmp_path_factory.mktemp("capsules")
    for name, fault in FAULTS.items():
        into(fault, steps=STEPS.get(name, (False, False, True)), capsules=folder / name)
    paths = [str(HERE.parent.parent), *sys.path]
    done = subprocess.run(
        [sys.executable, str(HERE / "replay_all.py"), str(folder), *FAULTS],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    assert not done.returncode, done.stderr
    lines = [json.loads(each) for each in done.stdout.splitlines()]
    return {name: lines[2 * at : 2 * at + 2] for at, name in enumerate(FAULTS)}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fresh_process_finds_the_same_in_the_same_module(replays, name):
    alone, _ = replays[name]
    assert alone["reproduced"], alone


@pytest.mark.parametrize("name", FAULTS)
def test_with_the_loss_it_names_the_operation(replays, name):
    fault = FAULTS[name]
    now = replays[name][1]["now"]
    assert (now["cause"], now["backward"], now["operation"]) == (fault.cause, fault.backward, fault.operation)


@pytest.mark.parametrize("name", FAULTS)
def test_it_says_whether_precision_was_the_cause(replays, name):
    assert replays[name][1]["by_precision"] is FAULTS[name].precision


def test_in_float32_an_overflow_of_float16_does_not_happen(replays):
    assert replays["linear_in_float16"][1]["float32"]["cause"] == "not again"


def capsule(tmp_path, name="outlier", **options):
    _, guard = into(FAULTS[name], capsules=torchmend.Capsules(folder=tmp_path / "capsules", **options))
    return Path(incident_of(guard).capsule)


def test_the_model_may_have_any_weights_before(tmp_path):
    folder = capsule(tmp_path, "weight_poisoned")
    result = torchmend.replay(folder, plain_net())
    assert result.reproduced
    assert result.now.module == "3.weight"


def test_another_model_is_refused(tmp_path):
    with pytest.raises(torchmend.UserError, match=r"does not fit the model: it .* Make the model as it was trained"):
        torchmend.replay(capsule(tmp_path), root_net())


def test_weights_that_a_checkpoint_holds_are_referred_to(tmp_path):
    model = plain_net()
    torch.save({"model": model.state_dict()}, tmp_path / "start.pt")
    fault = Fault(lambda: model, with_row(1e30), mean_loss, "module", "1")
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    _, guard = into(fault, capsules=torchmend.Capsules(folder=tmp_path / "c", checkpoint=tmp_path / "start.pt"))
    folder = Path(incident_of(guard).capsule)
    record = json.loads((folder / "capsule.json").read_text())
    assert {"parameter 0 0.weight", "parameter 0 0.bias"} <= record["reference"]["tensors"].keys()
    assert torchmend.replay(folder, plain_net()).reproduced
    (tmp_path / "start.pt").rename(tmp_path / "moved.pt")
    with pytest.raises(torchmend.UserError, match=r"which is not there\. Give --checkpoint"):
        torchmend.replay(folder, plain_net())
    assert torchmend.replay(folder, plain_net(), checkpoint=tmp_path / "moved.pt").reproduced


def test_a_checkpoint_that_has_changed_since_is_refused(tmp_path):
    model = plain_net()
    torch.save(model.state_dict(), tmp_path / "start.pt")
    fault = Fault(lambda: model, with_row(1e30), mean_loss, "module", "1")
    capsules = torchmend.Capsules(folder=tmp_path / "c", checkpoint=tmp_path / "start.pt")
    _, guard = into(fault, steps=(True,), capsules=capsules)
    torch.save({name: each + 1 for name, each in model.state_dict().items()}, tmp_path / "start.pt")
    with pytest.raises(torchmend.UserError, match="has other weights by now"):
        torchmend.replay(incident_of(guard).capsule, plain_net())


def test_too_many_weights_are_left_out_and_come_from_a_checkpoint(tmp_path):
    @seeded
    def large():
        return nn.Sequential(nn.Linear(6, 4096), nn.BatchNorm1d(4096), nn.ReLU(), nn.Linear(4096, 4))

    fault = Fault(large, with_row(1e30), mean_loss, "module", "1")
    model, guard = into(fault, capsules=torchmend.Capsules(folder=tmp_path / "c", most_bytes=1 << 16))
    folder = incident_of(guard).capsule
    torch.save(model.state_dict(), tmp_path / "last.pt")
    with pytest.raises(torchmend.UserError, match="written without weights: give --checkpoint"):
        torchmend.replay(folder, large())
    assert torchmend.replay(folder, large(), checkpoint=tmp_path / "last.pt").reproduced


def test_modes_and_frozen_parameters_are_as_they_were(tmp_path):
    model = plain_net()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    fault = Fault(lambda: model, with_row(float("nan")), mean_loss, "input", "")
    _, guard = into(fault, capsules=tmp_path / "c")
    fresh = plain_net()
    assert torchmend.replay(incident_of(guard).capsule, fresh).reproduced
    assert not fresh[1].training
    assert fresh[3].training
    assert not fresh[0].weight.requires_grad


def test_code_that_raises_when_it_is_replayed_is_told_in_a_line(tmp_path):
    def loss(model, batch):
        return (model(batch)[0].data / batch.data.norm(dim=1, keepdim=True)).mean()

    def packed(bad):
        rows = torch.zeros(3, 2, 6) if bad else torch.ones(3, 2, 6)
        return nn.utils.rnn.pack_padded_sequence(rows, torch.tensor([3, 2]))

    fault = Fault(seeded(lambda: nn.LSTM(6, 4)), packed, loss, "", "")
    capsule = incident_of(into(fault, loss=True, capsules=tmp_path)[1]).capsule
    with pytest.raises(torchmend.UserError, match=r"the code raised AttributeError: .* keeps named tuples as tuples"):
        torchmend.replay(capsule, nn.LSTM(6, 4), loss)
