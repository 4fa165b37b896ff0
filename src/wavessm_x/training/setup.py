"""What a training is made of: the parts, put together on their devices."""

import logging
import os
import random
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import torchmend
from wavessm_x.config import ConfigError, DataConfig, ModelConfig, TrainConfig
from wavessm_x.data import Datasets, DataWarning, load
from wavessm_x.losses import Losses
from wavessm_x.lpips import Lpips
from wavessm_x.model import Inpainting
from wavessm_x.optim import make_optimizer, make_scheduler
from wavessm_x.training.protection import Protection

logger = logging.getLogger("wavessm_x")

Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass(slots=True, kw_only=True)
class Parts:
    """The parts of a training.

    Args:
        fabric: Devices, precision and processes.
        model: The network itself.
        forward: What is called in training: the network, compiled or wrapped as it is used.
        optimizer: AdamW, as it is stepped.
        scheduler: Of its learning rate; counts the steps that were applied.
        scaler: For float16; None otherwise.
        average: Averaged weights; None without.
        losses: With their balancing.
        protection: The guard.
        datasets: The pictures.
        lpips: The learned distance, where its weights were given.
    """

    fabric: Fabric
    model: Inpainting
    forward: Any
    optimizer: Any
    scheduler: Any
    scaler: torch.amp.GradScaler | None
    average: AveragedModel | None
    losses: Losses
    protection: Protection
    datasets: Datasets
    lpips: Lpips | None

    @property
    def masked(self) -> bool:
        """Whether the network is told the mask."""
        return self.model.config.masked

    @property
    def evaluated(self) -> nn.Module:
        """The model that is validated: the average, if there is one."""
        return self.model if self.average is None else self.average


def make_fabric(config: TrainConfig, accelerator: str = "auto", devices: int | str = "auto") -> Fabric:
    """Return where and how the training runs; launched by torchrun it takes the processes that it finds.

    Args:
        config: Of the training.
        accelerator: As Fabric names it.
        devices: The same.

    Raises:
        ConfigError: Fabric knows no such devices, this machine has none, or torchrun started another number of
            processes.
    """
    try:
        return _fabric(config, {"accelerator": accelerator, **_processes(devices)})
    except (ValueError, RuntimeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"accelerator is {accelerator!r} and devices is {devices!r}; here they must be others, or auto: {error}"
        ) from error


def _fabric(config: TrainConfig, where: dict[str, Any]) -> Fabric:
    if config.precision == "32":
        return Fabric(**where, precision="32-true")
    kind = "cuda" if where["accelerator"] in ("auto", "cuda", "gpu") and torch.cuda.is_available() else "cpu"
    scaler = torch.amp.GradScaler(kind) if config.precision == "16-mixed" else None
    plugin = MixedPrecision(config.precision, kind, scaler)
    return Fabric(**where, plugins=[plugin])


def _processes(devices: int | str) -> dict[str, Any]:
    """Return how many devices and nodes: those that torchrun started processes for, where it did."""
    if "LOCAL_WORLD_SIZE" not in os.environ:
        return {"devices": devices}
    here, all_ = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    if str(devices) not in ("auto", str(here)):  # each process would train for itself, over the others' files
        raise ConfigError(
            f"devices is {devices}, but torchrun started {here} processes on this machine. Leave --devices out, "
            f"or pass --nproc_per_node {devices}."
        )
    return {"devices": here, "num_nodes": all_ // here}


def put_together(model_config: ModelConfig, data: DataConfig, config: TrainConfig, fabric: Fabric) -> Parts:
    """Make every part of a training, from one seed.

    Args:
        model_config: Of the model.
        data: Of the pictures.
        config: Of the training.
        fabric: Launched already.

    Raises:
        DataError: There is nothing to train on.
    """
    random.seed(data.seed)
    np.random.seed(data.seed)
    torch.manual_seed(data.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the lines of the report say it too
        datasets = load(data, masked=model_config.masked)
    for line in datasets.report.lines():
        logger.info("%s", line)
    model = Inpainting(model_config)
    logger.info("Configuring BatchNorm layers for numerical stability...")
    torchmend.configure_bn_for_stability(model)
    model.to(fabric.device)
    optimizer = make_optimizer(model, config.first_lr, config.weight_decay)
    scheduler = make_scheduler(optimizer, config.num_iter)
    average = _average(model, config.ema) if config.ema else None
    compiled: nn.Module = torch.compile(model, dynamic=False) if config.compile else model  # type: ignore[assignment]
    forward, stepped = fabric.setup(compiled, optimizer, _reapply_compile=False)
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    wrapper = next((each for each in forward.modules() if isinstance(each, nn.parallel.DistributedDataParallel)), None)
    protection = Protection(
        compiled if wrapper is None else wrapper,
        optimizer,
        config,
        scaler=scaler,
        scheduler=scheduler,
        ema=average,
    )
    return Parts(
        fabric=fabric,
        model=model,
        forward=forward,
        optimizer=stepped,
        scheduler=scheduler,
        scaler=scaler,
        average=average,
        losses=Losses(config.loss_weights, config.num_iter, config.perceptual_weights),
        protection=protection,
        datasets=datasets,
        lpips=None if config.lpips_weights is None else Lpips(config.lpips_weights),
    )


def _average(model: nn.Module, most: float) -> AveragedModel:
    """Return an average of the weights whose decay rises to its value, so that it forgets the untrained ones early."""

    @torch.no_grad()
    def take_in(averaged: Tensors, live: Tensors, count: Tensor | int) -> None:
        decay = min(most, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(list(averaged), list(live), 1 - decay)

    return AveragedModel(model, multi_avg_fn=take_in).requires_grad_(requires_grad=False)
