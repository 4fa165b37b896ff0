"""Write distributed checkpoints from two processes: tensors spread over ranks, and once in safetensors.

    python distributed_save.py FOLDER

FOLDER/torch and FOLDER/safetensors hold the same numbers, of which `whole.pt` has the whole tensors.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.checkpoint.filesystem import FileSystemWriter, SerializationFormat
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

RANKS = 2


def work(rank: int, folder: Path) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(RANKS))
    store = dist.FileStore(str(folder / "store"), RANKS)
    dist.init_process_group("gloo", rank=rank, world_size=RANKS, store=store)
    mesh = init_device_mesh("cpu", (RANKS,))
    whole = {
        "conv.weight": torch.arange(48.0).reshape(8, 6) / 10,
        "bn.running_mean": torch.tensor([0.5, float("nan"), 0.75, 0.6]),
        "bn.running_var": torch.tensor([1.0, 2.0, 1.5, 1.2]),
    }
    moment = torch.ones(8, 6)
    moment[5, 2] = float("inf")
    spread = whole | {"conv.weight": distribute_tensor(whole["conv.weight"], mesh, [Shard(0)])}
    moments = {"exp_avg_sq": distribute_tensor(moment, mesh, [Shard(0)]), "step": torch.tensor(3.0)}
    state = {
        "model": spread,
        "optimizer": {"state": {"conv.weight": moments}, "param_groups": [{"lr": 0.1, "params": ["conv.weight"]}]},
        "iteration": 7,
    }
    dcp.save(state, checkpoint_id=folder / "torch")
    writer = FileSystemWriter(folder / "safetensors", serialization_format=SerializationFormat.SAFETENSORS)
    dcp.save(dict(spread), storage_writer=writer)
    if rank == 0:
        torch.save({"model": whole, "exp_avg_sq": moment}, folder / "whole.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(work, args=(Path(sys.argv[1]),), nprocs=RANKS)
