"""All that a training has to remember so that it goes on as if nothing had happened, as plain values and tensors."""

import logging
import math
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from wavessm_x.config import DataConfig, ModelConfig, TrainConfig, as_plain
from wavessm_x.model import load_weights
from wavessm_x.training.setup import Parts

logger = logging.getLogger("wavessm_x")

MOST_LOSSES = 5000
"""So many of the last losses are kept."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a training is.

    Args:
        iteration: Steps that were attempted.
        loss_history: Of the last steps.
        val_history: One entry a validation.
        best_psnr: In decibels; -inf before the first.
        best_ssim: The same for SSIM.
        best_val_loss: The lowest loss; inf before the first.
    """

    iteration: int = 0
    loss_history: list[float] = field(default_factory=list)
    val_history: list[dict[str, Any]] = field(default_factory=list)
    best_psnr: float = -math.inf
    best_ssim: float = -math.inf
    best_val_loss: float = math.inf


def collect(
    parts: Parts, progress: Progress, model_config: ModelConfig, data: DataConfig, config: TrainConfig
) -> dict[str, Any]:
    """Return the checkpoint of a training.

    Args:
        parts: Whose state.
        progress: How far it is.
        model_config: Travels along, so that the file says what it is of.
        data: The same.
        config: The same.
    """
    extra = {
        "scaler_state_dict": parts.scaler.state_dict() if parts.scaler is not None else None,
        "ema_state_dict": parts.average.state_dict() if parts.average is not None else None,
        "losses_state_dict": parts.losses.state_dict(),
        "guard_state_dict": parts.protection.guard.state_dict(),
        "applied": parts.scheduler.last_epoch,
        "random": _random_state(),
        "world_size": parts.fabric.world_size,
    }
    best = {"best_psnr": progress.best_psnr, "best_ssim": progress.best_ssim, "best_val_loss": progress.best_val_loss}
    return {
        "model_state_dict": parts.model.state_dict(),
        "optimizer_state_dict": parts.optimizer.state_dict(),
        "scheduler_state_dict": parts.scheduler.state_dict(),
        "iteration": progress.iteration,
        "epoch": progress.iteration * config.accumulate * data.batch_size // max(len(parts.datasets.train), 1),
        **{name: value if math.isfinite(value) else None for name, value in best.items()},
        "loss_history": progress.loss_history[-MOST_LOSSES:],
        "val_history": progress.val_history,
        "config": {"model": as_plain(model_config), "data": as_plain(data), "training": as_plain(config)},
        "extra": extra,
    }


def restore(parts: Parts, state: dict[str, Any], lr: float | None = None) -> Progress:
    """Put a training back to where a checkpoint was written; the guard looks at the model when it is loaded.

    Args:
        parts: Freshly made.
        state: As `collect` made it, or of the original trainer, which has less in it.
        lr: The highest learning rate from here on; None leaves that of the checkpoint.

    Raises:
        KeysError: The weights are of another model.
    """
    load_weights(parts.model, state["model_state_dict"])
    extra = state.get("extra") or {}
    if "applied" in extra:
        parts.optimizer.load_state_dict(state["optimizer_state_dict"])
        parts.scheduler.load_state_dict(state["scheduler_state_dict"])
    else:
        _take_over(parts, state)
    if lr is not None:
        for group in parts.optimizer.param_groups:
            group["initial_lr"] = lr
        parts.scheduler.base_lrs = [lr for _ in parts.scheduler.base_lrs]
        _set_rates(parts)
    for name, part in (
        ("scaler_state_dict", parts.scaler),
        ("losses_state_dict", parts.losses),
        ("guard_state_dict", parts.protection.guard),
    ):
        if part is not None and extra.get(name):
            part.load_state_dict(extra[name])
    if parts.average is not None:
        if extra.get("ema_state_dict"):
            parts.average.load_state_dict(extra["ema_state_dict"])
        else:  # a checkpoint that has no average begins one
            parts.average.module.load_state_dict(parts.model.state_dict())
    if extra.get("random"):
        _set_random_state(extra["random"])
    best = {name: state.get(name) for name in ("best_psnr", "best_ssim", "best_val_loss")}
    return Progress(
        iteration=int(state.get("iteration", 0)),
        loss_history=list(state.get("loss_history", ())),
        val_history=list(state.get("val_history", ())),
        **{name: float(value) for name, value in best.items() if value is not None and math.isfinite(value)},
    )


def _take_over(parts: Parts, state: dict[str, Any]) -> None:
    """Take what there is from another trainer: the moments, if they fit, and the place in schedule and log."""
    optimizer, kept = parts.optimizer, state.get("optimizer_state_dict") or {}
    moments = kept.get("state", {})
    weights = [each for group in optimizer.param_groups for each in group["params"]]
    shapes = {number: each.shape for number, each in enumerate(weights)}
    if {number: each["exp_avg"].shape for number, each in moments.items() if "exp_avg" in each} == shapes:
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    else:
        logger.warning("The optimizer's state in the checkpoint is not of this optimizer; its moments begin anew.")
    done = int(state.get("iteration", 0))
    parts.scheduler.last_epoch = done
    _set_rates(parts)
    guard = parts.protection.guard
    guard.load_state_dict({**guard.state_dict(), "steps": [done]})  # it tells of steps by the same numbers


def _set_rates(parts: Parts) -> None:
    """Give the optimizer the learning rates of the place in the schedule."""
    groups, scheduler = parts.optimizer.param_groups, parts.scheduler
    for group, rate, share in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
        group["lr"] = rate * share(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in groups]


def _random_state() -> dict[str, Any]:
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": list(random.getstate()[1]),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate((3, tuple(state["python"]), None))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
