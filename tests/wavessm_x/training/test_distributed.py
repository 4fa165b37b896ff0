"""Two processes train one model: what one of them meets, both act on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from trainings import config_in, data_in
from wavessm_x.config import ConfigError
from wavessm_x.training.processes import first_told, together
from wavessm_x.training.setup import make_fabric

ROOT = Path(__file__).parents[3]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
}
LONG = 120
"""Seconds within which whatever ends must have ended; gloo itself would wait for half an hour."""


def command(folder: Path, *more: str) -> list[str]:
    """Return the script and the flags of a training that takes long."""
    data_in(folder)
    flags = {
        "accelerator": "cpu", "preset": "tiny", "patch_size": 16, "batch_size": 1, "workers": 0,
        "num_iter": 5000, "val_every": 5000, "data_path": folder / "pictures", "model_file": folder / "run" / "w.pth",
    }  # fmt: skip
    written = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    return [str(ROOT / "train_FIXED.py"), *written, *more]


def started(arguments: list[str]) -> subprocess.Popen[str]:
    """Start processes, and collect what they say."""
    return subprocess.Popen(arguments, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def is_under_way(folder: Path) -> bool:
    """Wait until a training has begun; the log file is made when signals are heard already, or nearly so."""
    for _ in range(10 * LONG):
        if list((folder / "run" / "logs").glob("*.csv")):
            time.sleep(2)
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Run all scenarios once; return what each process did, a dictionary by scenario for each."""
    folder = tmp_path_factory.mktemp("ranks")
    data_in(folder)
    script = Path(__file__).with_name("distributed_run.py")
    process = started([*TORCHRUN, str(script), str(folder)])
    said, _ = process.communicate(timeout=5 * LONG)
    assert process.returncode == 0, said
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


SCENARIOS = ("accumulated", "interrupted", "interrupted, resumed", "batch", "statistic of 0", "statistic of 1")


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_both_end_with_the_same_and_one_alone_validates_and_writes(outcomes, scenario):
    main, other = (each[scenario] for each in outcomes)
    for name in ("iteration", "applied", "weights", "average", "moments", "refused"):
        assert main[name] == other[name], name
    assert main["finite"]
    assert other["finite"]
    assert main["validations"] >= 1
    assert main["writes"] >= 1
    assert (other["validations"], other["writes"], other["lines"]) == (0, 0, [])


@pytest.mark.slow
def test_an_interrupt_of_one_stops_both_and_the_resumed_run_equals_the_whole_one(outcomes):
    whole, parted, resumed = (outcomes[0][name] for name in SCENARIOS[:3])
    assert (parted["iteration"], parted["writes"]) == (4, 2)  # a validation at 3, and the interrupt
    assert parted["weights"] != whole["weights"]
    for name in ("iteration", "applied", "weights", "average", "moments"):
        assert resumed[name] == whole[name], name


@pytest.mark.slow
def test_a_batch_that_is_bad_in_one_process_is_refused_in_both_and_the_log_says_where(outcomes):
    for each in outcomes:
        assert (each["batch"]["iteration"], each["batch"]["applied"], each["batch"]["refused"]) == (6, 5, 1)
    (line,) = outcomes[0]["batch"]["lines"]
    assert line.startswith("[NaN INPUT] iter 3: ")
    assert line.endswith(" (in process 1 of 2)")


@pytest.mark.slow
def test_statistics_damaged_in_the_first_process_are_repaired_for_both_those_of_another_are_not_used(outcomes):
    for each in outcomes:
        assert (each["statistic of 0"]["refused"], each["statistic of 1"]["refused"]) == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_to_torchrun_saves_once(tmp_path, number):
    process = started([*TORCHRUN, *command(tmp_path)])
    assert is_under_way(tmp_path)
    process.send_signal(number)
    said, _ = process.communicate(timeout=LONG)
    assert said.count("Asked to stop at iteration") == 1, said
    assert said.count("Checkpoint saved:") == 1
    state = torch.load(tmp_path / "run" / "w.pth", weights_only=True)
    assert 0 < state["iteration"] < 5000
    assert state["extra"]["world_size"] == 2


@pytest.mark.slow
def test_without_torchrun_the_processes_are_started_and_an_interrupt_saves_once(tmp_path):
    process = started([sys.executable, *command(tmp_path, "--devices", "2")])
    assert is_under_way(tmp_path)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=LONG)
    assert process.returncode == 130, said
    assert said.count("Checkpoint saved:") == 1
    assert torch.load(tmp_path / "run" / "w.pth", weights_only=True)["extra"]["world_size"] == 2


@pytest.mark.slow
def test_an_error_in_one_process_ends_the_others_with_a_message(tmp_path):
    arguments = command(tmp_path)
    (tmp_path / "run").write_text("no folder: the first process, which writes, fails, and the other one does not")
    process = started([*TORCHRUN, *arguments])
    said, _ = process.communicate(timeout=LONG)
    assert process.returncode != 0
    assert "wavessm: [Errno" in said
    assert "wavessm: Process 1 of 2 cannot reach another one" in said
    assert "[rank1]:" not in said  # no traceback


def test_two_processes_of_torchrun_train_one_model(tmp_path):
    process = started([*TORCHRUN, *command(tmp_path, "--num_iter", "2", "--val_every", "2")])
    said, _ = process.communicate(timeout=LONG)
    assert process.returncode == 0, said
    assert said.count("[Iter 2] Val Loss:") == said.count("Checkpoint saved:") == said.count("steps guarded:") == 1
    state = torch.load(tmp_path / "run" / "w.pth", weights_only=True)
    assert (state["iteration"], state["extra"]["applied"], state["extra"]["world_size"]) == (2, 2, 2)


def test_the_processes_that_torchrun_started_are_taken(tmp_path, monkeypatch):
    found = {"LOCAL_WORLD_SIZE": 2, "WORLD_SIZE": 4, "RANK": 3, "LOCAL_RANK": 1, "GROUP_RANK": 1,
             "TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "localhost", "MASTER_PORT": 1}  # fmt: skip
    for name, value in found.items():
        monkeypatch.setenv(name, str(value))
    fabric = make_fabric(config_in(tmp_path), "cpu")
    assert (fabric.world_size, fabric.global_rank, fabric.local_rank) == (4, 3, 1)
    with pytest.raises(ConfigError, match="devices is 1, but torchrun started 2 processes"):
        make_fabric(config_in(tmp_path), "cpu", 1)


def test_an_error_of_a_lone_process_stays_what_it_is():
    assert first_told("INPUT") == ("INPUT", "")
    with pytest.raises(RuntimeError, match="closed by peer"), together():
        raise RuntimeError("Connection closed by peer")
