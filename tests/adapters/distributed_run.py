"""Train by two processes in each framework, with a fault that one of them alone sees; write what happened.

python distributed_run.py STORE    # writes STORE.NAME.RANK.json: frameworks talk on standard output
"""

import datetime as dt
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from adapters.runs import is_finite, loader, loss_of, network, rows
from torchmend import UserError

RANKS = 2
OVERFLOWS = 3e20
"""Loss and gradients stay finite, the running variance becomes Inf: nothing that gradients would share."""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, rows: torch.Tensor, labels: Any = None) -> dict[str, torch.Tensor]:
        logits = self.net(rows)
        return {"loss": loss_of(lambda _: logits, rows), "logits": logits}


def accelerate(rank: int, folder: str) -> tuple[Any, nn.Module]:
    from accelerate import Accelerator

    from torchmend.adapters.accelerate import guarded

    accelerator = Accelerator(cpu=True)
    plain = network()
    optimizer = torch.optim.AdamW(plain.parameters(), 1e-2)
    with pytest.raises(UserError, match=r"Pass what accelerator\.prepare returns"):
        guarded(accelerator, plain, optimizer)
    model, optimizer = accelerator.prepare(plain, optimizer)
    guard = guarded(accelerator, model, optimizer)
    for (batch,) in accelerator.prepare(loader(rows(bad=OVERFLOWS))):
        accelerator.backward(loss_of(model, batch))
        optimizer.step()
        optimizer.zero_grad()
    return guard, plain


def transformers(rank: int, folder: str) -> tuple[Any, nn.Module]:
    from transformers import Trainer, TrainingArguments

    from torchmend.adapters.transformers import GuardCallback

    arguments = TrainingArguments(
        folder, num_train_epochs=1, per_device_train_batch_size=8, report_to=[], disable_tqdm=True, save_strategy="no",
        use_cpu=True, train_sampling_strategy="sequential", ddp_find_unused_parameters=False,
    )  # fmt: skip
    model = Net()
    trainer = Trainer(model, arguments, train_dataset=[{"rows": row, "labels": row} for row in rows(bad=OVERFLOWS)])
    callback = GuardCallback(trainer)
    trainer.add_callback(callback)
    trainer.train()
    assert trainer.model_wrapped is not model
    return callback.guard, model


def lightning(rank: int, folder: str) -> tuple[Any, nn.Module]:
    import lightning.pytorch as pl
    from lightning.pytorch.plugins.environments import LightningEnvironment
    from lightning.pytorch.strategies import DDPStrategy

    from torchmend.adapters.lightning import GuardCallback

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return loss_of(self.net, batch[0])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), 1e-2)

    callback, module = GuardCallback(), Module()
    strategy = DDPStrategy(cluster_environment=LightningEnvironment())
    trainer = pl.Trainer(
        accelerator="cpu", devices=RANKS, strategy=strategy, logger=False, max_epochs=1, callbacks=[callback],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, loader(rows(bad=OVERFLOWS)))
    return callback.guard, module


def fabric(rank: int, folder: str) -> tuple[Any, nn.Module]:
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments import LightningEnvironment
    from lightning.fabric.strategies import DDPStrategy

    from torchmend.adapters.fabric import guarded

    strategy = DDPStrategy(cluster_environment=LightningEnvironment())
    own = Fabric(accelerator="cpu", devices=RANKS, strategy=strategy)
    own.launch()
    plain = network()
    model, optimizer = own.setup(plain, torch.optim.AdamW(plain.parameters(), 1e-2))
    guard = guarded(own, model, optimizer)
    for (batch,) in own.setup_dataloaders(loader(rows(bad=OVERFLOWS))):
        own.backward(loss_of(model, batch))
        optimizer.step()
        optimizer.zero_grad()
    return guard, plain


SCENARIOS: list[Callable[[int, str], tuple[Any, nn.Module]]] = [accelerate, transformers, lightning, fabric]


def work(rank: int, store: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_WORLD_SIZE": str(RANKS)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500", "HF_HUB_OFFLINE": "1", "NODE_RANK": "0"}
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS, timeout=dt.timedelta(seconds=60)
    )
    for scenario in SCENARIOS:
        torch.manual_seed(0)
        guard, model = scenario(rank, f"{store}.{scenario.__name__}")
        told = {
            "refused": guard.events.counts["refuse"], "steps": guard.state_dict()["steps"], "finite": is_finite(model),
            "weights": [float(each.detach().double().sum()) for each in model.parameters()],
        }  # fmt: skip
        Path(f"{store}.{scenario.__name__}.{rank}.json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    mp.start_processes(work, (sys.argv[1],), nprocs=RANKS, start_method="fork")
