"""A checkpoint -> something that restores pictures."""

from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

import torchmend
from wavessm_x.checkpoints import CheckpointError, read
from wavessm_x.config import Device, WavessmError, model_config
from wavessm_x.data.datasets import HIDDEN
from wavessm_x.data.masks import Mask
from wavessm_x.data.patches import SMALLEST, grow
from wavessm_x.data.reading import Pixels
from wavessm_x.model import Inpainting, load_weights
from wavessm_x.restoring.tiles import Numbers, Tiling, blended


class RestoringError(WavessmError, ValueError):
    """A picture or a mask that the network cannot work on; the message says why, and what to do."""


def find_device(name: Device) -> torch.device:
    """Return a device.

    Raises:
        RestoringError: This machine has no such device.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise RestoringError("This machine has no CUDA device that PyTorch can use. Take cpu, or auto.")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


class Restorer:
    """Restores pictures by a trained network.

    Args:
        model: The network; it is put into evaluation mode.
        device: Where it runs.
        tiling: How large pictures are cut. The network is trained on patches, so that tiles of their size suit it.
    """

    def __init__(self, model: Inpainting, device: torch.device | str = "cpu", tiling: Tiling | None = None) -> None:
        self.model = model.to(device).eval()
        self.device = torch.device(device)
        self.tiling = tiling or Tiling()

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu", tiling: Tiling | None = None) -> Self:
        """Load a checkpoint of `wavessm train`; of averaged weights, where it has them.

        Args:
            path: The checkpoint.
            device: Where the network is to run.
            tiling: How large pictures are cut.

        Raises:
            CheckpointError: Weights or statistics in it are corrupted, or it is no checkpoint of this trainer.
            KeysError: Its weights do not fit the network that it says it is of.
        """
        state = read(path)
        kept = (state.get("config") or {}).get("model")
        if not isinstance(kept, dict):
            raise CheckpointError(
                f"{path} does not say what network it is of; train a step with --resume, and take that."
            )
        model = Inpainting(model_config(kept))
        average = (state.get("extra") or {}).get("ema_state_dict")
        weights = state["model_state_dict"]
        if average:
            weights = {key: value for key, value in average.items() if key != "n_averaged"}
        load_weights(model, weights)
        healthy, issues = torchmend.check_model_health(model)
        if not healthy:
            raise CheckpointError(f"{path} is corrupted: {issues[0]}. `torchmend fix {path}` repairs what it can.")
        return cls(model, device, tiling)

    @property
    def masked(self) -> bool:
        """Whether the network has to be told where to fill."""
        return self.model.config.masked

    def restore(self, picture: Pixels, mask: Mask | None = None) -> Pixels:
        """Restore a picture; large ones tile by tile, and with a mask only those tiles in which there is work.

        Args:
            picture: [h, w, 3], RGB, from 1 by 1.
            mask: [h, w], true where it is to be filled; given if and only if the network is `masked`. All else stays as
                it is, to the bit.

        Returns:
            A new picture of the same size.

        Raises:
            RestoringError: The sizes differ, a mask lacks or is not expected, or the network's numbers are not finite.
        """
        if (mask is not None) is not self.masked or (mask is not None and mask.shape != picture.shape[:2]):
            expected = f"a mask of {_size(picture)}" if self.masked else "no mask"
            raise RestoringError(
                f"This network expects {expected} pixels; got {'none' if mask is None else _size(mask)}."
            )
        wanted = np.ones(picture.shape[:2], dtype=np.bool_) if mask is None else mask
        tiling = self.tiling if mask is None else self.tiling.showing(mask)
        restored = blended(
            lambda tile: self._restored(picture[tile], None if mask is None else mask[tile]),
            tiling,
            wanted,
        )
        levels = (restored.clip(0, 1) * 255).round().astype(np.uint8)
        return np.where(wanted[..., None], levels, picture)

    @torch.no_grad()
    def _restored(self, picture: Pixels, mask: Mask | None) -> Numbers:
        """Return what the network makes of a tile, about 0 to 1."""
        height, width, _ = picture.shape
        image = self._batch(grow(picture, SMALLEST)) / 255
        if mask is None:
            output = self.model(image)
        else:
            hidden = self._batch(grow(mask[..., None].view(np.uint8), SMALLEST))
            output = self.model(image.masked_fill(hidden > 0, HIDDEN), hidden)
        if not bool(output.isfinite().all()):
            raise RestoringError("The network gave numbers that are not finite. Look at it by `torchmend diagnose`.")
        restored: Numbers = output[0, :, :height, :width].permute(1, 2, 0).cpu().numpy()
        return restored

    def _batch(self, picture: Pixels) -> Tensor:
        """Return a picture [h, w, c] as floats [1, c, h, w] on the network's device."""
        return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).to(self.device).float()[None]


def _size(array: Pixels | Mask) -> str:
    """Return a width and a height, as people write them."""
    return f"{array.shape[1]}x{array.shape[0]}"
