"""Two processes train one model: what one of them meets, both act on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from live.guard.training import same
from trainings import data_in

ROOT = Path(__file__).parents[3]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Run all scenarios once; return their folder."""
    folder = tmp_path_factory.mktemp("ranks")
    data_in(folder)
    script = Path(__file__).with_name("distributed_run.py")
    done = subprocess.run([*LAUNCH, str(script), str(folder)], env=ENVIRONMENT, text=True, capture_output=True,
        timeout=300, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def outcomes(ran):
    """Return what each process did: a dictionary by scenario for each."""
    return [json.loads((ran / f"{rank}.json").read_text()) for rank in range(2)]
