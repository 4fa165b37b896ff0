"""Two processes that see different batches weigh their terms alike."""

import json
import os
import subprocess
import sys
from pathlib import Path

RUN = """
import json, sys
import torch
from torch import distributed
from wavessm_x.losses.balancing import WINDOW, Balancing

rank, meeting, result = int(sys.argv[1]), sys.argv[2], sys.argv[3]
distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
balancing = Balancing(["l1", "ssim"])
generator = torch.Generator().manual_seed(rank)
for iteration in range(3 * WINDOW):
    balancing.advance(iteration)
    values = torch.rand(2, generator=generator)
    balancing.count({"l1": values[0], "ssim": values[1]})
balancing.advance(3 * WINDOW)
with open(result, "w") as file:
    json.dump(balancing.factors, file)
distributed.destroy_process_group()
"""


def test_the_factors_of_rank_0_hold_for_all(tmp_path):
    source = Path(__file__).parents[3] / "src"
    path = os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, str(rank), str(tmp_path / "meeting"), str(tmp_path / f"{rank}.json")],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["l1"] != first["ssim"]
