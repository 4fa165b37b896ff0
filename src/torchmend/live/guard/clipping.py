"""Clipping that is right on NaN: it comes after the verdict, so that only finite gradients are ever scaled."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn

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
        self._noted: tuple[float, list[tuple[int, int]]] = (math.nan, [])

    def note(self, norm: float, parameters: Sequence[Tensor]) -> None:
        """Note the norm that the sensor saw, and which gradients it is of.

        Args:
            norm: Without the scaler's factor.
            parameters: All of the optimizer's.
        """
        self._noted = (norm, [_state(each) for each in gradients_of(parameters)])

    @torch.no_grad()
    def clip(self, parameters: Sequence[Tensor], scale: Tensor | None = None) -> None:
        """Clip in place, with no read from the device.

        The sensor's norm serves if the gradients are as it saw them. If a scaler or the loop has changed them since,
        their norm is worked out again, and stays on the device.

        Args:
            parameters: With gradients that are all finite.
            scale: The scaler's factor, where the optimizer takes it off itself (fused ones do).
        """
        gradients = gradients_of(parameters)
        if not gradients:
            return
        if self._clip.by is By.VALUE:
            for each in gradients:
                bound = torch.as_tensor(self._clip.limit if scale is None else self._clip.limit * scale).to(each)
                each.clamp_(-bound, bound)
            return
        norm, states = self._noted
        limit = self._limit()
        if math.isfinite(norm):
            self.norms.append(norm)
        if states != [_state(each) for each in gradients]:
            total = nn.utils.get_total_norm(gradients)
            factor = ((limit if scale is None else limit * scale) / (total + 1e-6)).clamp(max=1.0)
            for each in gradients:
                each.mul_(factor.to(each.device))
        elif norm > limit:
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


def gradients_of(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients that there are."""
    return [each.grad for each in parameters if each.grad is not None]


def _state(gradient: Tensor) -> tuple[int, int]:
    return id(gradient), gradient._version
