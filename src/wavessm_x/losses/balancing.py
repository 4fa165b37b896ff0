"""Dynamic weight averaging: terms that fall more slowly than the others get more weight.

Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019, section 3.3: with the ratio r_k of a
term's means over the last two windows, its factor is K exp(r_k / T) / sum_i exp(r_i / T) for K terms.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

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
    """Remember the terms' means and give their factors.

    Sums stay on the terms' device, so that only the end of a window waits for it. What is not finite is left out: one
    bad step must not spoil the factors.
    """

    def __init__(self) -> None:
        self._window: int | None = None
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self._means: dict[str, float] = {}
        self._factors: dict[str, float] = {}

    def at(self, iteration: int) -> dict[str, float]:
        """Return the factors of an iteration; terms that are not in it have none yet."""
        window = iteration // WINDOW
        if window != self._window:
            self._close()
            self._window = window
        return dict(self._factors)

    def count(self, parts: Mapping[str, Tensor]) -> None:
        """Add the terms of one batch, scalars, to the window of the iteration that was last asked for."""
        for name, part in parts.items():
            value = part.detach()
            finite = value.isfinite()
            self._sums[name] = self._sums.get(name, 0) + torch.where(finite, value, 0).double()
            self._counts[name] = self._counts.get(name, 0) + finite.long()

    def _close(self) -> None:
        """Take the means of the window, and the factors if there are means before them."""
        counts = {name: int(count) for name, count in self._counts.items()}
        means = {name: float(self._sums[name]) / count for name, count in counts.items() if count}
        if means:
            self._factors = factors(self._means, means)
            self._means = means
        self._sums, self._counts = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Return all that is remembered, as plain values."""
        return {
            "window": self._window,
            "sums": {name: float(value) for name, value in self._sums.items()},
            "counts": {name: int(value) for name, value in self._counts.items()},
            "means": dict(self._means),
            "factors": dict(self._factors),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what `state_dict` returned."""
        self._window = state["window"]
        self._sums = {name: torch.tensor(value, dtype=torch.float64) for name, value in state["sums"].items()}
        self._counts = {name: torch.tensor(value) for name, value in state["counts"].items()}
        self._means, self._factors = dict(state["means"]), dict(state["factors"])
