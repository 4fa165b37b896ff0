"""The folder that accelerate writes: its files are judged and repaired one by one, and accelerate loads it back."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from checkpoints import torchmend
from differences import changed, changed_elements
from torchmend.doctor.diagnosing import diagnose_file
from torchmend.doctor.file_source import FileSource

accelerate = pytest.importorskip("accelerate")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

INF = float("inf")
FILES = ("model.safetensors", "optimizer.bin", "scheduler.bin", "random_states_0.pkl")


def prepared() -> tuple[Any, nn.Module, Any, Any, Any]:
    torch.manual_seed(0)
    accelerator = accelerate.Accelerator(cpu=True)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(16, 3)), batch_size=8)
    return accelerator, *accelerator.prepare(model, optimizer, scheduler, data)


def trained() -> tuple[Any, nn.Module, Any]:
    accelerator, model, optimizer, scheduler, data = prepared()
    for (batch,) in data:
        accelerator.backward(model(batch).square().mean())
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return accelerator, model, optimizer


@pytest.fixture
def healthy(tmp_path) -> Path:
    accelerator, _, _ = trained()
    accelerator.save_state(tmp_path / "state")
    return tmp_path / "state"


@pytest.fixture
def broken(tmp_path) -> Path:
    accelerator, model, optimizer = trained()
    model[1].running_mean[2] = INF
    model[1].running_var[3] = -1.0
    optimizer.optimizer.state[model[0].weight]["exp_avg"].view(-1)[5] = INF
    accelerator.save_state(tmp_path / "state")
    return tmp_path / "state"


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_a_healthy_folder_is_healthy(healthy, name):
    diagnosis = diagnose_file(healthy / name, verify_checksums=True)
    assert diagnosis.healthy
    assert not diagnosis.findings


def test_a_healthy_folder_exits_0(healthy):
    assert torchmend("diagnose", healthy).rc == 0


def test_the_optimizer_and_the_random_states_are_read_as_torch_loads_them(healthy):
    with FileSource(healthy / "optimizer.bin") as source:
        assert set(source.contents.optimizers) == {""}
        assert len(source.refs) == 3 * 6
    states = torch.load(healthy / "random_states_0.pkl", weights_only=False)
    with FileSource(healthy / "random_states_0.pkl") as source:
        by_name = {ref.path: source.raw(ref).tobytes() for ref in source.refs}
    assert by_name["torch_manual_seed"] == states["torch_manual_seed"].numpy().tobytes()
    assert by_name["numpy_random_seed.1"] == states["numpy_random_seed"][1].tobytes()


def test_a_repaired_folder_is_loaded_by_accelerate_and_differs_only_where_planned(broken):
    weights, state = broken / "model.safetensors", broken / "optimizer.bin"
    before = safetensors.torch.load(weights.read_bytes()), torch.load(state, weights_only=True)
    untouched = {name: (broken / name).read_bytes() for name in ("scheduler.bin", "random_states_0.pkl")}
    assert torchmend("diagnose", broken).rc == 1
    assert torchmend("fix", "--in-place", weights).rc == 0
    assert torchmend("fix", "--in-place", state).rc == 0
    after = safetensors.torch.load(weights.read_bytes()), torch.load(state, weights_only=True)
    assert changed(before[0], after[0]) == {"1.running_mean", "1.running_var"}
    assert changed_elements(before[0]["1.running_mean"], after[0]["1.running_mean"]) == [2]
    assert changed_elements(before[0]["1.running_var"], after[0]["1.running_var"]) == [3]
    assert changed(before[1], after[1]) == {"state.0.exp_avg"}
    assert changed_elements(before[1]["state"][0]["exp_avg"], after[1]["state"][0]["exp_avg"]) == [5]
    assert {name: (broken / name).read_bytes() for name in untouched} == untouched
    accelerator, model, optimizer, _, _ = prepared()
    accelerator.load_state(broken)
    assert not changed(after[0], dict(model.state_dict()))
    assert not changed(after[1]["state"], optimizer.state_dict()["state"])
    assert model.eval()(torch.ones(2, 3)).isfinite().all()
