"""Dynamic weight averaging: terms that fall more slowly than the others get more weight.

Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019, section 3.3: with the ratio r_k of a
term's means over the last two windows, its factor is K exp(r_k / T) / sum_i exp(r_i / T) for K terms.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed

TEMPERATURE = 2.0
"""Of the softmax; the published value."""

WINDOW = 50
"""Iterations over which means are taken."""


def factors(before: Mapping[str, float], last: Mapping[str, float]) -> dict[str, float]:
    """Return the factor of each term that both windows have: above 0, 1 on average.

    Args:
        before: The mean of each term in the last window but one, 0 or more.
        last: The means in the last window.
    """
    names = [name for name in last if name in before]
    ratios = [last[name] / before[name] if before[name] > 0 else 1.0 for name in names]
    highest = max(ratios, default=0.0)
    powers = [math.exp((ratio - highest) / TEMPERATURE) for ratio in ratios]
    total = sum(powers)
    return {name: len(names) * power / total for name, power in zip(names, powers, strict=True)}


class Balancing:
    """Remember the means of terms over windows of iterations, and give their factors.

    Sums stay on the device of the terms, so that only the end of a window waits for it. What is not finite is left out:
    one bad step must not spoil the factors. In a group of processes those of rank 0 hold for all.

    Args:
        names: Of the terms.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._window: int | None = None
        self._tally = torch.zeros(2, len(self._names))
        self._means: dict[str, float] = {}
        self._factors: dict[str, float] = {}

    @property
    def factors(self) -> dict[str, float]:
        """The factor of each term that has one yet."""
        return dict(self._factors)

    def advance(self, iteration: int) -> None:
        """Take the means of the window that went before, if this iteration opens another one."""
        window = iteration // WINDOW
        if self._window not in (None, window):
            self._close()
        self._window = window

    def count(self, parts: Mapping[str, Tensor]) -> None:
        """Add the terms of one batch, float32 scalars, to the window that is open."""
        values = torch.stack([parts[name].detach() for name in self._names])
        finite = values.isfinite()
        self._tally = self._tally.to(values.device) + torch.stack([torch.where(finite, values, 0), finite.float()])

    def _close(self) -> None:
        if distributed.is_available() and distributed.is_initialized():
            distributed.broadcast(self._tally, 0)
        sums, counts = self._tally.tolist()
        means = {name: sum_ / count for name, sum_, count in zip(self._names, sums, counts, strict=True) if count}
        if means:
            self._factors, self._means = factors(self._means, means), means
        self._tally = torch.zeros_like(self._tally)

    def state_dict(self) -> dict[str, Any]:
        """Return all that is remembered, as plain values."""
        return {
            "window": self._window,
            "names": list(self._names),
            "tally": self._tally.tolist(),
            "means": dict(self._means),
            "factors": dict(self._factors),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what `state_dict` returned; sums of other terms than these are dropped with their window."""
        self._window = state["window"]
        fits = tuple(state["names"]) == self._names
        self._tally = torch.tensor(state["tally"]) if fits else torch.zeros(2, len(self._names))
        self._means = {name: value for name, value in state["means"].items() if name in self._names}
        self._factors = {name: value for name, value in state["factors"].items() if name in self._names}
