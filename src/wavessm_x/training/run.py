"""One training, from its settings to its end."""

import logging
from dataclasses import fields
from typing import Any

from lightning_fabric import Fabric
from torch._dynamo.exc import TorchDynamoException

from wavessm_x.checkpoints import CheckpointError, find, read
from wavessm_x.config import ConfigError, DataConfig, ModelConfig, TrainConfig, model_config
from wavessm_x.training.loop import Loop
from wavessm_x.training.processes import leave_talking_to_main, together
from wavessm_x.training.setup import make_fabric, put_together
from wavessm_x.training.state import Progress, restore
from wavessm_x.training.validation import validate
from wavessm_x.training.watch import Watch

logger = logging.getLogger("wavessm_x")

EXCHANGEABLE = frozenset({"half_fft"})
"""Settings of a model that say how it is computed, not what it is: a broken run goes on with its precision mended."""


def train(
    model: ModelConfig,
    data: DataConfig,
    config: TrainConfig,
    *,
    accelerator: str = "auto",
    devices: int | str = "auto",
) -> Progress:
    """Train, or go on with a training, and evaluate at the end.

    Args:
        model: The architecture.
        data: The pictures.
        config: How it is trained.
        accelerator: As lightning-fabric names it: "auto", "cpu", "cuda".
        devices: How many, or "auto".

    Returns:
        How far it came.

    Raises:
        ConfigError: A setting has no meaning.
        DataError: There is nothing to train on.
        CheckpointError: There is nothing to go on from, or weights in it are corrupted.
        KeysError: The checkpoint is of another model.
        TrainingStoppedError: Going on would not help; the guard says why.
        LeftAloneError: Another process ended.
    """
    fabric = make_fabric(config, accelerator, devices)
    fabric.launch()
    leave_talking_to_main()
    with together():
        return _train(model, data, config, fabric)


def _train(model: ModelConfig, data: DataConfig, config: TrainConfig, fabric: Fabric) -> Progress:
    if not config.resume and config.model_file.exists():
        raise CheckpointError(
            f"{config.model_file} exists. Pass --resume to go on from it, or name another file with --model_file."
        )
    state = _read(model, config, fabric) if config.resume else None
    parts = put_together(model, data, config, fabric)
    progress = Progress()
    if state is not None:
        progress = restore(parts, state, config.lr)
        logger.info(
            "Going on from iteration %d, of which %d steps were applied.",
            progress.iteration,
            parts.scheduler.last_epoch,
        )
    watch = Watch(config, progress.iteration, is_main=fabric.is_global_zero)
    try:
        has_ended = Loop(parts, progress, watch, model, data, config).run()
    except TorchDynamoException as error:
        raise ConfigError(f"torch.compile fails here; leave --compile out. {str(error).splitlines()[0]}") from error
    logger.info("%s", parts.protection.guard.summary())
    if has_ended and parts.datasets.test is not None and fabric.is_global_zero:
        found = validate(
            parts.evaluated,
            parts.datasets.test,
            parts.losses.final,
            fabric.device,
            masked=parts.masked,
            lpips=parts.lpips,
        )
        logger.info(
            "Test pictures: %d | PSNR: %.2f | SSIM: %.4f | PSNR where masked: %.2f",
            found.succeeded, found.psnr, found.ssim, found.psnr_masked,
        )  # fmt: skip
    parts.protection.guard.detach()
    return progress


def _read(model: ModelConfig, config: TrainConfig, fabric: Fabric) -> dict[str, Any]:
    path = find(config.model_file)
    logger.info("Resuming from %s...", path)
    state = read(path)
    kept = (state.get("config") or {}).get("model")
    if isinstance(kept, dict):
        _refuse_other_model(model, model_config(kept), str(path))
    count = (state.get("extra") or {}).get("world_size", fabric.world_size)
    if count != fabric.world_size:
        logger.warning("The checkpoint is of %d processes, not %d: batches will be others.", count, fabric.world_size)
    return state


def _refuse_other_model(asked: ModelConfig, kept: ModelConfig, path: str) -> None:
    other = [
        f"{each.name} is {getattr(kept, each.name)} there and {getattr(asked, each.name)} here"
        for each in fields(ModelConfig)
        if each.name not in EXCHANGEABLE and getattr(kept, each.name) != getattr(asked, each.name)
    ]
    if other:
        raise CheckpointError(
            f"{path} is of another model: {'; '.join(other)}. Pass the settings that it was trained with."
        )
