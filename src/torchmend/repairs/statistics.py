"""Plans for damaged running statistics: averaged copy, donor, survivors, other layers, identity."""

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import islice

import numpy as np

from torchmend.facts.plans import Edit, Rung, Values
from torchmend.facts.sources import TensorSource, Vector
from torchmend.facts.tensors import NormLayer, TensorRef
from torchmend.repairs.across_layers import predict_from_layers
from torchmend.repairs.channels import Channels, Mask, Statistic, read_channels
from torchmend.repairs.predictors import Prediction, compete, output_error, usable
from torchmend.rules.roles import plain_name

MOST_LAYERS = 64
"""How many other layers a lost statistic is predicted from: more say the same, and cost as much again."""

DonorVector = Callable[[TensorRef], tuple[str, Vector] | None]
"""Finds, for a tensor, a donor's name and the donor's sound values."""


class StatisticsPlanner:
    """Plans edits of damaged running statistics of one source.

    Args:
        source: Where the vectors are.
        layers: Every normalisation layer of the source.
        donors: Finds a donor's values.
    """

    def __init__(self, source: TensorSource, layers: Sequence[NormLayer], donors: DonorVector) -> None:
        self.source = source
        self.layers = layers
        self.donors = donors
        self._channels: dict[NormLayer, Channels] = {}
        self._position = {layer: at for at, layer in enumerate(layers)}
        self._layer_of = {ref: layer for layer in layers for ref in (layer.mean, layer.var)}

    def channels(self, layer: NormLayer) -> Channels:
        """Return a layer's vectors, fetched once."""
        if layer not in self._channels:
            self._channels[layer] = read_channels(self.source, layer)
        return self._channels[layer]

    def reset(self, damaged: Sequence[TensorRef]) -> list[Edit]:
        """Plan the classic recipe: the whole of each damaged statistic to 0 or 1."""
        return [
            _edit(
                ref,
                np.ones(ref.numel, dtype=np.bool_),
                np.full(ref.numel, 1.0 if statistic is Statistic.VAR else 0.0),
                rung=Rung.IDENTITY,
                reason="the whole statistic reset, as asked",
            )
            for ref in damaged
            for statistic in [self._statistic(ref)]
        ]

    def plan(self, damaged: Sequence[TensorRef]) -> list[Edit]:
        """Plan one edit for each damaged statistic; variances first, since means are judged in their unit."""
        refs = list(dict.fromkeys(damaged))
        return [self._plan_one(ref) for ref in sorted(refs, key=lambda r: self._statistic(r) is Statistic.MEAN)]

    def _statistic(self, ref: TensorRef) -> Statistic:
        return Statistic.VAR if ref.role.is_nonnegative else Statistic.MEAN

    def _plan_one(self, ref: TensorRef) -> Edit:
        statistic = self._statistic(ref)
        layer = self._layer_of[ref]
        channels = self.channels(layer)
        bad = ~channels.ok(statistic)
        copied = self._from_copy(ref, layer, statistic, bad) or self._from_donor(ref, bad)
        if copied is not None:
            return copied
        if usable(channels, statistic).any() and channels.ok(statistic).any():
            won = compete(channels, statistic)
            return _predicted(ref, bad, won, Rung.SURVIVORS)
        if (transferred := predict_from_layers(channels, self._intact(layer, statistic), statistic)) is not None:
            return _predicted(ref, bad, transferred, Rung.OTHER_LAYERS)
        value = 1.0 if statistic is Statistic.VAR else 0.0
        return _edit(
            ref,
            bad,
            np.full(ref.numel, value),
            rung=Rung.IDENTITY,
            error=self._identity_error(layer, statistic),
            reason="it cannot be predicted from what is left; recalibrate the model on data before you trust it",
        )

    def _intact(self, layer: NormLayer, statistic: Statistic) -> list[Channels]:
        """Return the nearest layers of which the statistic is intact, in the source's order."""
        at = self._position[layer]
        near = sorted(range(len(self.layers)), key=lambda i: abs(i - at))
        others = (i for i in near if i != at and self.layers[i].averaged == layer.averaged)
        found = islice((i for i in others if self._is_intact(self.channels(self.layers[i]), statistic)), MOST_LAYERS)
        return [self.channels(self.layers[i]) for i in sorted(found)]

    def _is_intact(self, channels: Channels, statistic: Statistic) -> bool:
        return bool(channels.ok(statistic).all() and usable(channels, statistic).any())

    def _identity_error(self, layer: NormLayer, statistic: Statistic) -> float | None:
        """Return the median error that identity statistics would make on the layers that are intact."""
        value = 1.0 if statistic is Statistic.VAR else 0.0
        errors = [
            float(np.sqrt(np.mean(np.square(output_error(np.full(len(c.var), value), c, statistic, c.ok(statistic))))))
            for c in self._intact(layer, statistic)
        ]
        return float(np.median(errors)) if errors else None

    @cached_property
    def _by_name(self) -> dict[tuple[str, bool], list[NormLayer]]:
        table: dict[tuple[str, bool], list[NormLayer]] = {}
        for layer in self.layers:
            table.setdefault((plain_name(layer.prefix), layer.averaged), []).append(layer)
        return table

    def _from_copy(self, ref: TensorRef, layer: NormLayer, statistic: Statistic, bad: Mask) -> Edit | None:
        """Take the values from the averaged copy of the same layer, or from the live twin of an averaged one."""
        for twin in self._by_name.get((plain_name(layer.prefix), not layer.averaged), ()):
            channels = self.channels(twin)
            if twin.channels != layer.channels or not channels.ok(statistic)[bad].all() or _never_moved(channels):
                continue
            whose = twin.mean if statistic is Statistic.MEAN else twin.var
            return _edit(
                ref,
                bad,
                channels.values(statistic),
                rung=Rung.LIVE_TWIN if layer.averaged else Rung.AVERAGED_COPY,
                approximate=True,
                reason=f"taken from {whose.path} in the same file",
            )
        return None

    def _from_donor(self, ref: TensorRef, bad: Mask) -> Edit | None:
        given = self.donors(ref)
        if given is None:
            return None
        name, values = given
        return _edit(
            ref,
            bad,
            values,
            rung=Rung.DONOR,
            approximate=True,
            reason=f"the damaged channels are taken from {name}",
        )


def _never_moved(channels: Channels) -> bool:
    """Return whether the statistics are still those that a layer is made with."""
    return bool((channels.mean == 0).all() and (channels.var == 1).all())


def _predicted(ref: TensorRef, bad: Mask, won: Prediction, rung: Rung) -> Edit:
    reason = f"{won.method}, the best of {max(len(won.scores), 1)} predictors"
    return _edit(ref, bad, won.values, rung=rung, method=won.method, error=won.error, reason=reason)


def _edit(
    ref: TensorRef,
    bad: Mask,
    values: Vector,
    *,
    rung: Rung,
    reason: str,
    method: str = "",
    error: float | None = None,
    approximate: bool = True,
) -> Edit:
    index = np.flatnonzero(bad)
    return Edit(
        ref=ref,
        change=Values(index=tuple(index.tolist()), values=tuple(values[index].tolist())),
        count=len(index),
        rung=rung,
        method=method,
        approximate=approximate,
        error=error,
        reason=reason,
    )
