"""The five terms as one loss: weighed by the schedule, balanced, always in float32."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavessm_x.config import ConfigError
from wavessm_x.losses import terms
from wavessm_x.losses.balancing import Balancing
from wavessm_x.losses.perceptual import Perceptual
from wavessm_x.losses.schedule import TERMS, is_full, weights_at

logger = logging.getLogger("wavessm_x")

Term = Callable[[Tensor, Tensor], Tensor]


class Losses:
    """Measure how far an output is from its target.

    Args:
        weights: Of l1, perceptual, ssim, edge and freq, each 0 or more, in full.
        num_iter: Iterations of the training in all.
        perceptual_weights: A file with the weights of VGG19. Without, the perceptual term is left out, and a message
            says so.

    Raises:
        ConfigError: No term is left that weighs anything, or the file does not hold what it must.
    """

    def __init__(self, weights: Sequence[float], num_iter: int, perceptual_weights: Path | None = None) -> None:
        full = dict(zip(TERMS, map(float, weights), strict=True))
        if full["perceptual"] and perceptual_weights is None:
            logger.info("No --perceptual_weights: the perceptual loss is off.")
            full["perceptual"] = 0.0
        if not any(full.values()):
            raise ConfigError(
                f"loss_weights leave no loss to train on ({full}); give one that can be computed a weight."
            )
        self._full, self._num_iter = full, num_iter
        self._balancing = Balancing([name for name in TERMS if full[name]])
        self._terms: dict[str, Term] = {"l1": terms.l1, "ssim": terms.ssim, "edge": terms.edge, "freq": terms.freq}
        if full["perceptual"] and perceptual_weights is not None:
            self._terms["perceptual"] = Perceptual(perceptual_weights)

    def __call__(self, output: Tensor, target: Tensor, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its terms.

        Args:
            output: [B, 3, H, W], of any floating type. If it needs no gradient, as in validation, it is not counted for
                the balancing.
            target: Of the same shape, in [0, 1].
            iteration: Of the training, from 0.

        Returns:
            The total, a float32 scalar, and the terms before they are weighed, with the keys of TERMS. A term that
            weighs nothing is not computed, and is 0.
        """
        counted = output.requires_grad and is_full(iteration, self._num_iter, self._full)
        if counted:
            self._balancing.advance(iteration)
        weights = self.weights(iteration)
        with torch.autocast(output.device.type, enabled=False):
            output, target = output.float(), target.float()
            computed = {name: self._terms[name](output, target) for name in TERMS if weights[name]}
            total = torch.stack([weights[name] * part for name, part in computed.items()]).sum()
        if counted:
            self._balancing.count(computed)
        return total, {name: computed.get(name, total.new_zeros(())).detach() for name in TERMS}

    def final(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss as it weighs at the end of the training, by which validations compare; see `__call__`."""
        total, _ = self(output, target, self._num_iter)
        return total

    def weights(self, iteration: int) -> dict[str, float]:
        """Return what each term weighs: by the schedule, then, when all weigh in full, as they are balanced now."""
        weights = weights_at(iteration, self._num_iter, self._full)
        if not is_full(iteration, self._num_iter, self._full):
            return weights
        factors = self._balancing.factors
        return {name: weight * factors.get(name, 1.0) for name, weight in weights.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the balancing, as plain values."""
        return {"balancing": self._balancing.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on balancing from what `state_dict` returned."""
        self._balancing.load_state_dict(state["balancing"])
