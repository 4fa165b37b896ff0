"""Clipping that is right on NaN: it comes after the verdict, so that only finite gradients are ever scaled."""

import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from torchmend.facts.errors import UserError


class By(StrEnum):
    """What a limit is on."""

    NORM = "norm"
    """The 2-norm of all gradients of an optimizer."""
    VALUE = "value"
    """Every element's magnitude."""
    PERCENTILE = "percentile"
    """The norm, at a percentile of those of recent steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A limit on gradients.

    Args:
        by: What it is on.
        limit: The largest norm or magnitude, above 0; or the percentile, from 0 to 100.
        window: For a percentile, how many norms are remembered.
    """

    by: By = By.NORM
    limit: float = 0.5
    window: int = 100

    def __post_init__(self) -> None:
        """Raise UserError for values without a meaning."""
        if not self.limit > 0 or (self.by is By.PERCENTILE and self.limit > 100):
            legal = "above 0 and at most 100" if self.by is By.PERCENTILE else "above 0"
            raise UserError(f"A limit of {self.limit} by {self.by.value}; it must be {legal}.")
        if self.window < 2:
            raise UserError(f"window is {self.window}; it must be 2 or more.")


class Clipper:
    """Clips the gradients of one optimizer, and remembers the norms of steps that happened.

    Args:
        clip: The limit.
    """

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self.norms: deque[float] = deque(maxlen=clip.window)

    @torch.no_grad()
    def apply(self, gradients: list[Tensor], norm: float) -> None:
        """Clip in place.

        Args:
            gradients: All finite.
            norm: Their 2-norm, as the sensor found it.
        """
        if self._clip.by is By.VALUE:
            torch._foreach_clamp_min_(gradients, -self._clip.limit)
            torch._foreach_clamp_max_(gradients, self._clip.limit)
            return
        limit = self._limit()
        if math.isfinite(norm):
            self.norms.append(norm)
        if norm > limit:
            torch._foreach_mul_(gradients, limit / (norm + 1e-6))

    def _limit(self) -> float:
        if self._clip.by is By.NORM:
            return self._clip.limit
        if len(self.norms) < 2:
            return math.inf
        ordered = sorted(self.norms)
        at = (len(ordered) - 1) * self._clip.limit / 100
        low = math.floor(at)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (at - low) * (ordered[high] - ordered[low])
