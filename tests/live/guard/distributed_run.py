"""Train under DistributedDataParallel with faults on one rank; print what each rank did, a line of JSON a scenario.

python distributed_run.py STORE
"""

import contextlib
import datetime as dt
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn import functional

from torchmend.facts.errors import TrainingStoppedError, UserError
from torchmend.live.guard.guard import Guard
from torchmend.live.guard.policy import Policy
from torchmend.live.guard.ring import Ring

RANKS, STEPS = 2, 7
NAN = float("nan")


class Averages(nn.Module):
    """Averages of two halves of the input that nothing else depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("one", torch.zeros(2))
        self.register_buffer("two", torch.zeros(2))

    def forward(self, rows: Tensor) -> Tensor:
        self.one.lerp_(rows[:, :2].mean(0), 0.1)
        self.two.lerp_(rows[:, 2:].mean(0), 0.1)
        return rows.nan_to_num().clamp(-3, 3)


@dataclass(frozen=True)
class Run:
    """What a fault gets to do its harm."""

    rank: int
    step: int
    data: Tensor
    model: nn.Module
    optimizer: torch.optim.Optimizer
    guard: Guard


def breaks_statistics(run: Run) -> None:
    """Let this rank's statistics overflow alone: loss and gradients stay finite."""
    if (run.rank, run.step) == (1, 3):
        run.data[0, 0] = 3e20


def breaks_the_input(run: Run) -> None:
    if (run.rank, run.step) == (1, 3):
        run.data[0, 0] = NAN


def breaks_buffers_in_turn(run: Run) -> None:
    """One buffer or the other of one rank, in every step."""
    if run.rank == 1 and run.step >= 1:
        run.data[0, 0 if run.step % 2 else 3] = NAN


def breaks_what_the_other_does_not_watch(run: Run) -> None:
    """Statistics of rank 0, while rank 1 has given up on its own."""
    if run.step == 3:
        run.guard.evaluation.were_sound = run.rank == 0
        run.data[0, 0] = 3e20 if run.rank == 0 else 1.0


def breaks_a_weight(run: Run) -> None:
    """Flip a bit of one rank's copy, after the last step."""
    if run.rank == 1:
        breaks_a_weight_everywhere(run)


def breaks_a_moment(run: Run) -> None:
    """Damage one rank's copy of the optimizer's state, after the last step."""
    if (run.rank, run.step) == (1, STEPS):
        next(iter(run.optimizer.state.values()))["exp_avg"][0, 0] = NAN


def breaks_a_statistic(run: Run) -> None:
    """Damage one rank's own statistics, after the last step."""
    if (run.rank, run.step) == (1, STEPS):
        run.model[2].running_mean[0] = NAN


def breaks_a_weight_everywhere(run: Run) -> None:
    if run.step == STEPS:
        next(run.model.parameters()).data[0, 0] = NAN


@dataclass(frozen=True)
class Scenario:
    """A way to train, and what goes wrong."""

    fault: Callable[[Run], None]
    first: Callable[[], nn.Module] = nn.Identity
    wrapping: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    micro_batches: int = 1


SCENARIOS = {
    "statistics": Scenario(breaks_statistics, wrapping={"broadcast_buffers": False}),
    "statistics that are broadcast": Scenario(breaks_statistics, wrapping={"broadcast_buffers": True}),
    "loss": Scenario(breaks_the_input),
    "loss, gradients in buckets": Scenario(breaks_the_input, wrapping={"gradient_as_bucket_view": True}),
    "buffer": Scenario(breaks_the_input, first=Averages, wrapping={"broadcast_buffers": False}),
    "accumulation": Scenario(breaks_the_input, micro_batches=2),
    "accumulation of statistics": Scenario(breaks_statistics, wrapping={"broadcast_buffers": False}, micro_batches=2),
    "dropped micro-batch": Scenario(breaks_the_input, micro_batches=2, options={"drop_micro_batches": True}),
    "buffers in turn": Scenario(
        breaks_buffers_in_turn,
        first=Averages,
        wrapping={"broadcast_buffers": False},
        options={"policy": Policy(most_refusals=2), "ring": None},
    ),
    "not watched by one": Scenario(breaks_what_the_other_does_not_watch, wrapping={"broadcast_buffers": False}),
    "weight": Scenario(breaks_a_weight, options={"ring": Ring(every=1), "check_every": STEPS}),
    "weight, and nothing to go back to": Scenario(breaks_a_weight, options={"ring": None}),
    "moment": Scenario(breaks_a_moment),
    "statistic": Scenario(breaks_a_statistic, wrapping={"broadcast_buffers": False}),
    "weight of all": Scenario(breaks_a_weight_everywhere, options={"ring": Ring(every=1), "check_every": STEPS}),
    "weight of all, and nothing to go back to": Scenario(breaks_a_weight_everywhere, options={"ring": None}),
}


def train(rank: int, scenario: Scenario) -> dict[str, Any]:
    torch.manual_seed(0)
    inner = nn.Sequential(scenario.first(), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1))
    model = nn.parallel.DistributedDataParallel(inner, **scenario.wrapping)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    stopped = None
    with Guard(model, optimizer, **scenario.options) as guard:
        for step in range(STEPS + 1):
            if step == STEPS:
                scenario.fault(Run(rank, step, torch.zeros(1, 1), inner, optimizer, guard))
                stopped = stopped or stop_of(guard.check)
                break
            stopped = stop_of(lambda step=step: take(rank, step, scenario, model, optimizer, guard))
            if stopped:
                break
    weights = [each.detach().flatten() for each in inner.parameters()]
    moments = [value.flatten() for state in optimizer.state.values() for value in state.values()]
    return {
        "together": together(torch.cat([*weights, *moments])),
        "decisions": [
            (each.step, each.action.value, each.origin, each.rank)
            for each in guard.events.decisions
            if each.action.value != "log"
        ],
        "stopped": stopped,
        "buffers finite": all(bool(each.isfinite().all()) for each in inner.buffers()),
        "batches": int(inner[2].num_batches_tracked),
        "steps": int(next(iter(optimizer.state.values()))["step"]) if optimizer.state else 0,
    }


def stop_of(action: Callable[[], object]) -> str | None:
    """Return why the guard stopped the run, if it did."""
    try:
        action()
    except TrainingStoppedError as error:
        return str(error)
    return None


def take(rank: int, step: int, scenario: Scenario, model: Any, optimizer: Any, guard: Guard) -> None:
    optimizer.zero_grad()
    for part in range(scenario.micro_batches):
        is_last = part == scenario.micro_batches - 1
        data = torch.randn(8, 4, generator=torch.Generator().manual_seed(100 * step + 10 * part + rank))
        target = data.sum(1).clamp(-3, 3)
        with contextlib.nullcontext() if is_last else model.no_sync():
            if part == 0 and step < STEPS:
                scenario.fault(Run(rank, step, data, model.module, optimizer, guard))
            (functional.mse_loss(model(data).squeeze(1), target) / scenario.micro_batches).backward()
    optimizer.step()


def together(values: Tensor) -> bool:
    """Return whether all ranks hold the same finite values, to the last bit."""
    others = [torch.empty_like(values) for _ in range(RANKS)]
    dist.all_gather(others, values)
    return all(torch.equal(values, each) for each in others) and bool(values.isfinite().all())


def work(rank: int, store: str) -> None:
    logging.disable()
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(RANKS))
    dist.init_process_group(
        "gloo",
        rank=rank,
        world_size=RANKS,
        store=dist.FileStore(store, RANKS),
        timeout=dt.timedelta(seconds=30),
    )
    for name, scenario in SCENARIOS.items():
        result = train(rank, scenario)
        sys.stdout.write(json.dumps([name, rank, result]) + "\n")
        sys.stdout.flush()
        dist.barrier()
    model = nn.parallel.DistributedDataParallel(nn.Linear(2, 2))
    with contextlib.suppress(UserError):
        Guard(model, torch.optim.AdamW(model.parameters(), fused=True), lazy=True)
        sys.stdout.write(json.dumps(["lazy", rank, {}]) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(work, args=(sys.argv[1],), nprocs=RANKS)
