"""A checkpoint -> something that restores pictures."""

from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from wavessm_x.checkpoints import CheckpointError, read
from wavessm_x.config import WavessmError, model_config
from wavessm_x.data.datasets import HIDDEN
from wavessm_x.data.masks import Mask
from wavessm_x.data.reading import Pixels
from wavessm_x.model import Inpainting, load_weights


class RestoringError(WavessmError, ValueError):
    """A picture or a mask that the network cannot work on; the message says why, and what to do."""


class Restorer:
    """Restores pictures by a trained network.

    Args:
        model: The network; it is put into evaluation mode.
        device: Where it runs.
    """

    def __init__(self, model: Inpainting, device: torch.device | str = "cpu") -> None:
        self.model = model.to(device).eval()
        self.device = torch.device(device)

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Self:
        """Load a checkpoint of `wavessm train`; of averaged weights, where it has them.

        Args:
            path: The checkpoint.
            device: Where the network is to run.

        Raises:
            CheckpointError: Weights in it are corrupted, or it is no checkpoint of this trainer.
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
        return cls(model, device)

    @property
    def masked(self) -> bool:
        """Whether the network has to be told where to fill."""
        return self.model.config.masked

    @torch.no_grad()
    def restore(self, picture: Pixels, mask: Mask | None = None) -> Pixels:
        """Restore a picture.

        Args:
            picture: [h, w, 3], RGB, of 16 by 16 pixels at least.
            mask: [h, w], true where it is to be filled; given if and only if the network is `masked`. All else stays as
                it is, to the bit.

        Returns:
            A new picture of the same size.

        Raises:
            RestoringError: The sizes differ, or a mask lacks or is not expected.
        """
        if (mask is not None) is not self.masked or (mask is not None and mask.shape != picture.shape[:2]):
            expected = f"a mask of {picture.shape[:2]}" if self.masked else "no mask"
            raise RestoringError(f"This network expects {expected}; got {None if mask is None else mask.shape}.")
        seen = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).to(self.device).float() / 255
        if mask is None:
            return _pixels(self.model(seen[None])[0])
        hidden = torch.from_numpy(mask.copy()).to(self.device)[None]
        output = self.model(seen.masked_fill(hidden, HIDDEN)[None], hidden[None].float())[0]
        return np.where(mask[..., None], _pixels(output), picture)


def _pixels(image: Tensor) -> Pixels:
    return np.asarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu())
