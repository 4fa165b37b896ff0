"""Train under DistributedDataParallel with a bad batch on one rank only; print whether the ranks stayed together.

python distributed_run.py STORE
"""

import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional

from torchmend.live.guard.guard import Guard

RANKS = 2


def work(rank: int, store: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(RANKS))
    dist.init_process_group("gloo", rank=rank, world_size=RANKS, store=dist.FileStore(store, RANKS))
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1))
    model = nn.parallel.DistributedDataParallel(inner, broadcast_buffers=False)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    guard = Guard(model, optimizer)
    for step in range(6):
        data = torch.randn(8, 4, generator=torch.Generator().manual_seed(10 * step + rank))
        if step == 3 and rank == 1:
            data[0, 0] = 3e20  # breaks this rank's statistics alone: loss and gradients stay finite
        optimizer.zero_grad()
        functional.mse_loss(model(data).squeeze(1), data.sum(1).clamp(-3, 3)).backward()
        optimizer.step()
    weights = torch.cat([each.detach().flatten() for each in inner.parameters()])
    others = [torch.empty_like(weights) for _ in range(RANKS)]
    dist.all_gather(others, weights)
    together = all(torch.equal(weights, each) for each in others) and bool(weights.isfinite().all())
    refused = [(decision.step, decision.origin) for decision in guard.events.decisions]
    sys.stdout.write(f"rank {rank}: together {together}, refused {refused}\n")
    sys.stdout.flush()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(work, args=(sys.argv[1],), nprocs=RANKS)
