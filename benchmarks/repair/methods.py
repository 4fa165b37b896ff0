"""The methods that are compared: each reads a damaged file and gives a repaired state dict."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torchmend.doctor.file_source import FileSource
from torchmend.doctor.fixing import FixOptions, fix_file
from torchmend.facts.tensors import TensorRef
from torchmend.repairs.channels import Channels, Statistic, read_channels
from torchmend.repairs.planning import Strategy
from torchmend.repairs.predictors import designs, predict_by, usable
from torchmend.rules.layers import norm_layers

State = dict[str, Tensor]
Method = Callable[[Path], State]

LADDER = "ladder"
RESET = "reset"
CHANNELS_RESET = "damaged channels to 0/1"


def fixed(path: Path, strategy: Strategy) -> State:
    """Repair by `torchmend fix`."""
    output = path.with_name(f"{strategy.value}.pt")
    result = fix_file(path, FixOptions(output=output, strategy=strategy, force=True))
    assert result.succeeded, result.plan.refused
    return _load(output)


def forced(path: Path, for_mean: str, for_variance: str) -> State:
    """Repair by one predictor; by the family's median where that one is not to be had."""
    state = _load(path)
    with FileSource(path) as source:
        for layer in norm_layers(source.refs):
            channels = read_channels(source, layer)
            _overwrite(state, layer.var, channels, Statistic.VAR, for_variance)
            _overwrite(state, layer.mean, channels, Statistic.MEAN, for_mean)
    return state


def _overwrite(state: State, ref: TensorRef, channels: Channels, statistic: Statistic, name: str) -> None:
    bad = ~channels.ok(statistic)
    if not bad.any():
        return
    candidates = {design.name: design for design in designs(channels, statistic)}
    chosen = candidates.get(name, candidates["family median"])
    if usable(channels, statistic).any():
        values = predict_by(chosen, channels, statistic)
    else:
        values = np.full(len(bad), 1.0 if statistic is Statistic.VAR else 0.0)
    state[ref.path][torch.from_numpy(bad)] = torch.from_numpy(values[bad]).to(state[ref.path].dtype)


def _load(path: Path) -> State:
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return, unused-ignore]


METHODS: dict[str, Method] = {
    RESET: partial(fixed, strategy=Strategy.RESET),
    CHANNELS_RESET: partial(forced, for_mean="identity", for_variance="identity"),
    "family median": partial(forced, for_mean="family median", for_variance="family median"),
    "family mean": partial(forced, for_mean="family mean", for_variance="family mean"),
    "fan-in": partial(forced, for_mean="fan-in", for_variance="fan-in"),
    "linear": partial(forced, for_mean="linear", for_variance="linear"),
    "ratio": partial(forced, for_mean="ratio to deviation", for_variance="ratio to mean"),
    LADDER: partial(fixed, strategy=Strategy.LADDER),
}
"""By name; the single predictors apply where channels survived."""

WHOLE = (RESET, LADDER)
"""The methods for statistics of which nothing survived."""
