"""Train whole loops in two processes, with a fault on one; write what each holds afterwards, a file of JSON a process.

python -m torch.distributed.run --standalone --nproc-per-node 2 agreement_run.py FOLDER
"""

import contextlib
import datetime as dt
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn import functional as shared
from torch.nn import functional

from torchmend.facts.errors import TrainingStoppedError, UserError
from torchmend.live.guard.decisions import Action
from torchmend.live.guard.events import told
from torchmend.live.guard.guard import Guard
from torchmend.live.guard.policy import Policy
from torchmend.live.guard.ranks import trained_together
from torchmend.live.guard.ring import Ring

STEPS, AT, PARTS = 8, 5, 2
"""Steps of a run, the one in which something goes wrong, and micro-batches in those that accumulate."""


class SynchronisedNorm(nn.BatchNorm1d):
    """BatchNorm over the batches of all ranks: torch's own does so on accelerators only."""

    def forward(self, rows: Tensor) -> Tensor:
        if not self.training:
            return super().forward(rows)
        mean = shared.all_reduce(rows.mean(0)) / dist.get_world_size()
        variance = shared.all_reduce((rows - mean).square().mean(0)) / dist.get_world_size()
        with torch.no_grad():
            self.running_mean.lerp_(mean, 0.1)
            self.running_var.lerp_(variance, 0.1)
        return self.weight * (rows - mean) / (variance + self.eps).sqrt() + self.bias


@dataclass
class Batch:
    """One batch, which a fault may spoil."""

    rows: Tensor
    wanted: Tensor
    model: nn.Module
    """That it is given to."""
    factor: float = 1.0
    """On the loss, detached: its value is damaged, and its gradients are not."""
    gradient: Callable[[Tensor], Tensor] | None = None
    """Hook on the network's output."""


def nan_input(batch: Batch) -> None:
    batch.rows[0, 0] = float("nan")


def large_input(batch: Batch) -> None:
    """Finite, and its square is not: only the running variance overflows."""
    batch.rows[0, 0] = 3e20


def infinite_loss(batch: Batch) -> None:
    batch.factor = float("inf")


def nan_gradient(batch: Batch) -> None:
    batch.gradient = lambda given: given * float("nan")


def damaged_weight(batch: Batch) -> None:
    batch.model[0].weight.data[0, 0] = float("nan")


def far_off(batch: Batch) -> None:
    batch.wanted *= 1e3


def too_far_for_half(batch: Batch) -> None:
    """The loss stays finite; scaled gradients overflow float16."""
    batch.wanted += 3e4


@dataclass(frozen=True)
class Case:
    """A way to train, what goes wrong, and when."""

    fault: Callable[[Batch], None]
    norm: type[nn.BatchNorm1d] = nn.BatchNorm1d
    wrapping: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    parts: int = 1
    part: int = 0
    steps: range = range(AT, AT + 1)
    scaled: bool = False
    log: bool = False


OWN, SENT = {"broadcast_buffers": False}, {"broadcast_buffers": True}
CASES = {
    "statistics": Case(large_input, wrapping=OWN, log=True),
    "statistics, sent": Case(large_input, wrapping=SENT),
    "statistics, synchronised": Case(large_input, norm=SynchronisedNorm),
    "input, synchronised": Case(nan_input, norm=SynchronisedNorm),
    "input": Case(nan_input, wrapping=OWN),
    "input, early part": Case(nan_input, wrapping=OWN, parts=PARTS),
    "statistics, early part": Case(large_input, wrapping=SENT, parts=PARTS),
    "statistics, last part": Case(large_input, wrapping=OWN, parts=PARTS, part=1),
    "gradient": Case(nan_gradient),
    "gradient, early part": Case(nan_gradient, parts=PARTS),
    "gradient, in buckets": Case(nan_gradient, wrapping={"gradient_as_bucket_view": True}, parts=PARTS),
    "loss": Case(infinite_loss),
    "outlier": Case(far_off, options={"policy": Policy(spike=1.0)}),
    "scaler": Case(too_far_for_half, scaled=True),
    "scaler, input": Case(nan_input, scaled=True, wrapping=OWN),
    "weight": Case(damaged_weight, wrapping=OWN, options={"check_every": AT + 1}),
    "back": Case(
        nan_gradient,
        steps=range(AT, AT + 2),
        options={"policy": Policy(most_refusals=2, window=8), "ring": Ring(every=1), "check_every": 2},
    ),
    "stop": Case(nan_gradient, steps=range(AT, STEPS), options={"policy": Policy(most_refusals=2), "ring": None}),
    "dropped early part": Case(nan_input, wrapping=OWN, parts=PARTS, options={"drop_micro_batches": True}),
    "dropped last part": Case(nan_input, wrapping=OWN, parts=PARTS, part=1, options={"drop_micro_batches": True}),
    "dropped last part, in buckets": Case(
        nan_gradient,
        wrapping={"gradient_as_bucket_view": True},
        parts=PARTS,
        part=1,
        options={"drop_micro_batches": True},
    ),
}


class Run:
    """One training.

    Args:
        case: How, and what goes wrong on rank 1.
        folder: Gets the guard's file of decisions.
        left_out: Whether nothing goes wrong, and what would have been refused never comes.
    """

    def __init__(self, case: Case, folder: Path, *, left_out: bool) -> None:
        torch.manual_seed(0)
        inner = nn.Sequential(nn.Linear(4, 6), case.norm(6), nn.ReLU(), nn.Linear(6, 1))
        self.case, self.left_out = case, left_out
        self.model = nn.parallel.DistributedDataParallel(inner, **case.wrapping)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 0.01)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, STEPS)
        self.average = torch.optim.swa_utils.AveragedModel(inner)
        self.scaler = torch.amp.GradScaler("cpu", enabled=case.scaled, init_scale=2.0**10)
        options: dict[str, Any] = {}
        if case.log and not left_out:
            options = {"log": folder / f"{dist.get_rank()}.jsonl", "capsules": folder / "capsules"}
        self.guard = Guard(
            self.model,
            self.optimizer,
            scaler=self.scaler,
            scheduler=self.scheduler,
            ema=self.average,
            **case.options,
            **options,
        )

    def outcome(self) -> dict[str, Any]:
        """Train, and tell."""
        why = ""
        try:
            for step in range(STEPS):
                self._take(step)
        except TrainingStoppedError as error:
            why = str(error)
        state = self.guard.state_dict()
        return {
            "weights": digest([*self.model.module.parameters()]),
            "buffers": digest([*self.model.module.buffers()]),
            "average": digest([*self.average.parameters()]),
            "moments": digest(self.optimizer.state_dict()),
            "schedule": digest(self.scheduler.state_dict()),
            "scaler": digest(self.scaler.state_dict()),
            "guard": digest({name: state[name] for name in ("steps", "counts", "policy", "norms")}),
            "finite": all(bool(each.isfinite().all()) for each in self.model.module.state_dict().values()),
            "decisions": [
                [each.step, each.action.value, each.rank, each.by_scaler]
                for each in self.guard.events.decisions
                if each.rank is not None or each.action is not Action.LOG
            ],
            "stopped": why,
            "incidents": [
                [each.rank, each.found.cause.value, each.found.module, each.found.exchanges, str(each)]
                for each in (decision.incident for decision in self.guard.events.decisions)
                if each is not None
            ],
        }

    def _take(self, step: int) -> None:
        parts = [part for part in range(self.case.parts) if not self._is_left_out(step, part)]
        if not parts:
            return
        self.optimizer.zero_grad()
        for part in parts:
            batch = self._batch(step, part)
            with contextlib.nullcontext() if part == parts[-1] else self.model.no_sync():
                self._backward(batch, len(parts))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.average.update_parameters(self.model.module)

    def _is_left_out(self, step: int, part: int) -> bool:
        is_whole = "drop_micro_batches" not in self.case.options
        return self.left_out and step in self.case.steps and (is_whole or part == self.case.part)

    def _batch(self, step: int, part: int) -> Batch:
        rank = dist.get_rank()
        rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(100 * step + 10 * part + rank))
        batch = Batch(rows, rows.sum(1), self.model.module)
        if rank == 1 and step in self.case.steps and part == self.case.part and not self.left_out:
            self.case.fault(batch)
            if self.case.fault is large_input:
                batch.wanted = batch.wanted.clamp(-3, 3)
        return batch

    def _backward(self, batch: Batch, parts: int) -> None:
        with torch.autocast("cpu", torch.float16, enabled=self.case.scaled):
            given = self.model(batch.rows).squeeze(1)
        if batch.gradient is not None:
            given.register_hook(batch.gradient)
        loss = functional.smooth_l1_loss(given.float(), batch.wanted, beta=1e6) * 1e6 / parts
        self.guard.observe(loss.detach() * batch.factor)
        self.scaler.scale(loss).backward()


def digest(value: Any) -> str:
    """Return a hash of all that a nested state holds, to the last bit."""
    hashed = hashlib.sha256()
    for each in leaves(value):
        hashed.update(each.detach().contiguous().numpy().tobytes() if isinstance(each, Tensor) else repr(each).encode())
    return hashed.hexdigest()


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name in value:
            yield from leaves(value[name])
    elif isinstance(value, list | tuple):
        for each in value:
            yield from leaves(each)
    else:
        yield value


def uneven() -> str:
    """Return what a guard says of uneven inputs."""
    model = nn.parallel.DistributedDataParallel(nn.Linear(4, 1))
    Guard(model, torch.optim.SGD(model.parameters(), 0.1))
    try:
        with model.join(throw_on_early_termination=False):
            model(torch.ones(2, 4)).sum().backward()
    except UserError as error:
        return str(error)
    return ""


def told_of_the_module_inside() -> list[str]:
    """Return what is logged when a guard gets the module inside the wrapper."""
    logger, handler, lines = logging.getLogger("torchmend.guard"), logging.Handler(), []
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    logging.disable(logging.NOTSET)
    wrapped = nn.parallel.DistributedDataParallel(nn.Linear(4, 1))
    Guard(wrapped.module, torch.optim.SGD(wrapped.parameters(), 0.1)).detach()
    logging.disable()
    logger.removeHandler(handler)
    return lines


def in_another_group() -> list[str]:
    """Return what was decided in a run of one rank alone, in a group of its own, while the others do something else."""
    alone = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    if dist.get_rank() == 0:
        return []
    model = nn.parallel.DistributedDataParallel(nn.Linear(4, 1), process_group=alone[dist.get_rank()])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer) as guard:
        for value in (1.0, float("nan")):
            optimizer.zero_grad()
            model(torch.full((2, 4), value)).sum().backward()
            optimizer.step()
    return [told(each) for each in guard.events.decisions]


def left_by_the_other() -> str:
    """Return the error of a rank whose partner failed before its backward pass; ends the common work."""
    group = dist.new_group(timeout=dt.timedelta(seconds=2))
    model = nn.parallel.DistributedDataParallel(nn.Linear(4, 1), process_group=group)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer):
        loss = model(torch.ones(2, 4)).sum()
        if dist.get_rank() == 1:
            return ""
        try:
            loss.backward()
        except RuntimeError as error:
            return type(error).__name__
    return "nothing happened"


def main(folder: Path) -> None:
    """Run every case, with its fault and without what the guard refuses."""
    logging.disable()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=dt.timedelta(seconds=30))
    spoiled = {name: Run(case, folder, left_out=False).outcome() for name, case in CASES.items()}
    clean = {name: Run(case, folder, left_out=True).outcome() for name, case in CASES.items()}
    results = {"spoiled": spoiled, "clean": clean, "uneven": uneven(), "alone": in_another_group()}
    wrapped = nn.parallel.DistributedDataParallel(nn.Linear(4, 1))
    results["compiled"] = [trained_together([each]) for each in (wrapped, torch.compile(wrapped), wrapped.module)]
    results["inside"] = told_of_the_module_inside()
    results["left"] = left_by_the_other()
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(results))
    os._exit(0)  # a group in which one rank has failed cannot be taken down in order


if __name__ == "__main__":
    main(Path(sys.argv[1]))
