"""Train in two processes in several ways; write what each process holds afterwards, a file of JSON a process.

python -m torch.distributed.run --standalone --nproc_per_node 2 distributed_run.py FOLDER
"""

import hashlib
import json
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from trainings import MODEL, config_in
from wavessm_x.config import DataConfig, TrainConfig
from wavessm_x.data import Batches
from wavessm_x.training import loop, run
from wavessm_x.training.setup import Parts

RANK = int(os.environ["RANK"])
STATISTIC = "refinement_ffc.scales.0.ffc.local_conv.1.running_mean"

Fault = Callable[[Parts, Any], None]


def spoil_the_batch(_: Parts, batch: Any) -> None:
    """Put NaN into a batch."""
    batch["image"][0, 0, 0, 0] = float("nan")


def spoil_a_statistic(parts: Parts, _: Any) -> None:
    """Put Inf into a running mean."""
    dict(parts.model.named_buffers())[STATISTIC][0] = float("inf")


def interrupt(_: Parts, __: Any) -> None:
    """Do what `kill` does."""
    signal.raise_signal(signal.SIGTERM)


class Run:
    """One training, with a fault, and what it leaves in this process.

    Args:
        data: The pictures.
        config: Of the training.
        fault: Happens in this process when its batch of a step is fetched.
        step: Which one, from 1.
    """

    def __init__(self, data: DataConfig, config: TrainConfig, fault: Fault | None = None, step: int = 0) -> None:
        self.data, self.config = data, config
        self.calls: Counter[str] = Counter()
        self.lines: list[str] = []
        self._fault, self._step = fault, step
        self._parts: list[Parts] = []

    def outcome(self) -> dict[str, Any]:
        """Train, and tell."""
        logger, handler = logging.getLogger("wavessm_x"), logging.Handler()
        handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]
        logger.addHandler(handler)
        with ExitStack() as stack:
            for where, name in ((run, "put_together"), (loop, "validate"), (loop, "write"), (Batches, "__next__")):
                replacement = self._watched(name, getattr(where, name))
                stack.enter_context(mock.patch.object(where, name, replacement))
            progress = run.train(MODEL, self.data, self.config, accelerator="cpu", devices=2)
        logger.removeHandler(handler)
        (parts,) = self._parts
        moments = (value for each in parts.optimizer.state.values() for value in each.values())
        return {
            "iteration": progress.iteration,
            "applied": parts.scheduler.last_epoch,
            "weights": digest(parts.model.parameters()),
            "average": digest(parts.average.parameters() if parts.average is not None else ()),
            "moments": digest(moments),
            "finite": all(bool(each.isfinite().all()) for each in parts.model.buffers()),
            "refused": parts.protection.guard.events.counts["refuse"],
            "validations": self.calls["validate"],
            "writes": self.calls["write"],
            "lines": self.lines,
        }

    def _watched(self, name: str, called: Callable[..., Any]) -> Callable[..., Any]:
        def watching(*arguments: Any, **keywords: Any) -> Any:
            self.calls[name] += 1
            result = called(*arguments, **keywords)
            if name == "put_together":
                self._parts.append(result)
            if name == "__next__" and self._fault is not None and self.calls[name] == self._step:
                self._fault(self._parts[0], result)
            return result

        return watching


def digest(tensors: Iterable[Tensor]) -> str:
    """Return a hash of tensors' bytes."""
    hashed = hashlib.sha256()
    for each in tensors:
        hashed.update(each.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    """Run every scenario; what goes wrong goes wrong in one process alone."""
    data = DataConfig(data_path=folder / "pictures", patch_size=32, batch_size=2, workers=0, validation=0.2)

    def outcome(name: str, fault: Fault | None = None, step: int = 0, rank: int = 1, **changed: Any) -> dict[str, Any]:
        config = config_in(folder / name.removesuffix(", resumed"), **changed)
        return Run(data, config, fault if rank == RANK else None, step).outcome()

    return {
        "accumulated": outcome("accumulated", accumulate=2),
        "interrupted": outcome("interrupted", interrupt, 7, accumulate=2),
        "interrupted, resumed": outcome("interrupted, resumed", accumulate=2, resume=True),
        "batch": outcome("batch", spoil_the_batch, 4),
        "statistic of 0": outcome("statistic of 0", spoil_a_statistic, 3, rank=0),
        "statistic of 1": outcome("statistic of 1", spoil_a_statistic, 3),
    }


def main(folder: Path) -> None:
    """Run all, and write what came of it."""
    torch.set_num_threads(1)
    (folder / f"{RANK}.json").write_text(json.dumps(outcomes(folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
