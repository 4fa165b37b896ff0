"""Small networks that do something to pictures without being trained, and checkpoints of them."""

from pathlib import Path

import torch

from wavessm_x.config import ModelConfig, as_plain
from wavessm_x.model import Inpainting

SMALL = {"channels": (4, 4, 4, 4), "blocks": (1, 1, 1, 1), "d_state": 2, "wavelet": "haar"}


def network(*, masked: bool = True, **changed) -> Inpainting:
    """Make a network; its last layer, which begins as zeros, is drawn."""
    torch.manual_seed(0)
    model = Inpainting(ModelConfig(**SMALL, masked=masked, **changed)).eval()
    torch.nn.init.normal_(model.output.weight, std=0.05)
    return model


def checkpoint(path: Path, model: Inpainting | None = None) -> Path:
    """Save a network as the trainer does."""
    model = model or network()
    path.parent.mkdir(parents=True, exist_ok=True)
    config = {"model": as_plain(model.config)}
    torch.save({"model_state_dict": model.state_dict(), "iteration": 1, "config": config, "extra": {}}, path)
    return path
