"""The damages: which statistics of which channels are lost, drawn with seeds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]
DRAWS = 5
MEAN, VAR = "running_mean", "running_var"
_NAN = float("nan")

_KINDS: dict[str, dict[str, float]] = {
    "mean NaN": {MEAN: _NAN},
    "variance NaN": {VAR: _NAN},
    "variance negative": {VAR: -1e-3},
    "both NaN": {MEAN: _NAN, VAR: _NAN},
}
LOSSES: dict[str, dict[str, float]] = {
    "mean": {MEAN: _NAN},
    "variance": {VAR: _NAN},
    "both": {MEAN: _NAN, VAR: _NAN},
}
_SHARES: dict[str, float] = {"one channel": 0.0, "10 %": 0.1, "30 %": 0.3, "50 %": 0.5}


@dataclass(frozen=True)
class Damage:
    """One damage to one network.

    Args:
        kind: What is damaged; one row of the table.
        draw: Which instance: a seed, or the layer that is hit.
        whole: Whether nothing of a statistic survives.
        apply: Returns a damaged copy of a state dict.
    """

    kind: str
    draw: str
    whole: bool
    apply: Callable[[State], State]


def damages(norms: list[str]) -> Iterator[Damage]:
    """Give every damage to a network with these normalisation layers."""
    for kind, values in _KINDS.items():
        for where, share in _SHARES.items():
            for seed in range(DRAWS):
                label = f"{kind}, {where} of every layer"
                yield Damage(label, f"seed {seed}", False, channels_lost(norms, values, share, seed))
    for norm in norms:
        yield Damage("mean Inf, one whole layer", norm, True, whole_lost([norm], {MEAN: float("inf")}))
    for loss, values in LOSSES.items():
        for norm in norms:
            yield Damage(f"{loss} NaN, one whole layer", norm, True, whole_lost([norm], values))
    for loss, values in LOSSES.items():
        yield Damage(f"{loss} NaN, every layer whole", "all", True, whole_lost(norms, values))


def channels_lost(norms: list[str], values: dict[str, float], share: float, seed: int) -> Callable[[State], State]:
    """Lose a share of the channels of every layer, at least one."""

    def apply(state: State) -> State:
        random = np.random.default_rng(seed)
        damaged = {name: tensor.clone() for name, tensor in state.items()}
        for norm in norms:
            width = len(state[f"{norm}.{MEAN}"])
            lost = random.choice(width, size=max(1, round(share * width)), replace=False)
            for leaf, value in values.items():
                damaged[f"{norm}.{leaf}"][torch.from_numpy(lost)] = value
        return damaged

    return apply


def whole_lost(norms: list[str], values: dict[str, float]) -> Callable[[State], State]:
    """Lose every channel of some layers."""

    def apply(state: State) -> State:
        damaged = {name: tensor.clone() for name, tensor in state.items()}
        for norm in norms:
            for leaf, value in values.items():
                damaged[f"{norm}.{leaf}"].fill_(value)
        return damaged

    return apply
