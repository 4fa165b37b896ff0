"""Checkpoint files: found, refused when their weights are corrupted, read, and written."""

import logging
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import torchmend
from wavessm_x.config import WavessmError

logger = logging.getLogger("wavessm_x")

_WEIGHTS = frozenset({torchmend.Role.WEIGHT, torchmend.Role.BIAS})


class CheckpointError(WavessmError):
    """A checkpoint that cannot be gone on from; the message says what to do instead."""


def find(model_file: Path) -> Path:
    """Return the checkpoint to go on from: the one that is named, or else the newest beside it.

    Raises:
        CheckpointError: There is none.
    """
    if model_file.is_file():
        return model_file
    others = [
        each
        for each in model_file.parent.glob("wavessm_x*.pth")
        if "_best" not in each.stem and not each.stem.endswith("_corrupted")
    ]
    if not others:
        raise CheckpointError(
            f"There is no checkpoint {model_file}, and no wavessm_x*.pth beside it. "
            "Leave --resume out to begin anew, or name another file with --model_file."
        )
    newest = max(others, key=lambda each: each.stat().st_mtime)
    logger.warning("%s does not exist; going on from the newest checkpoint beside it, %s", model_file, newest)
    return newest


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint, without running any code in it.

    Raises:
        CheckpointError: It does not exist, weights in it are corrupted, or it is no checkpoint of this trainer.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}, seen from {Path.cwd()}. Name one by --model_file.")
    diagnosis = torchmend.diagnose(path)
    corrupted = [each for each in diagnosis.damaged if each.ref is not None and each.ref.role in _WEIGHTS]
    if corrupted:
        raise CheckpointError(
            f"{len(corrupted)} weights in {path} are corrupted, first of all {corrupted[0].place}: no training goes on "
            "from that. "
            f"`torchmend pick {path.parent}` names the newest healthy checkpoint there; "
            f"`torchmend fix {path} --donor OTHER` takes the weights from another one."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, and code in it is not run: {str(error).splitlines()[0]} "
            "Load it where you trust it, and save what is in model_state_dict and iteration anew."
        ) from error
    if not isinstance(state, dict) or "model_state_dict" not in state:
        raise CheckpointError(f"{path} has no model_state_dict: it is no checkpoint of this trainer.")
    return state


def write(state: dict[str, Any], path: Path, psnr: float | None) -> bool:
    """Write a checkpoint, and keep it as the best one too if its PSNR is the highest.

    A corrupted one goes to quarantine, and never over a healthy one.

    Args:
        state: As `read` returns it; a timestamp is added.
        path: Its name.
        psnr: Of this state, in decibels; NaN never wins. None where it was not validated.

    Returns:
        Whether it was healthy.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stamped = {**state, "timestamp": datetime.now(UTC).isoformat(timespec="seconds")}
    saved = torchmend.save(stamped, path, 2, step=state["iteration"], metric=psnr)
    if not saved.healthy:
        key = next((each.place for each in saved.findings if each.place), "?")
        logger.error("[FATAL] Checkpoint save aborted! Model corrupted at key: %s", key)
        logger.error("What was to be saved is in %s; %s stays as it was.", saved.path, path)
        return False
    logger.info("Checkpoint saved: %s", path)
    return True
