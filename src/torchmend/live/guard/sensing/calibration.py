"""How far running statistics are from those of the batches: what evaluation will subtract and divide by."""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Finding
from torchmend.live.guard.sensing.places import Samples, and_more, home_of, hookable
from torchmend.live.tensors import is_plain
from torchmend.live.wrapping import Hook
from torchmend.rules.evidence import finding

LEAST_WARM_UP, MOST_WARM_UP = 50, 500
"""Steps before a layer is looked at: five times 1 / momentum. Statistics that would need more than the most are looked
at after the least: they will not fit for long."""

MEAN_GAP = 1.0
"""Running standard deviations; ordinary trainings stayed below 0.9 (`docs/decisions/2026-11-24-sampled-sensors.md`)."""

VARIANCE_GAP = 2.5
"""Powers of two; ordinary trainings stayed below 2.1, one that went astray at 2.4."""

SAMPLES = 3
"""Samples in a row with a gap that make a finding."""


@dataclass(slots=True)
class _Seen:
    """A layer in a sampled step.

    Args:
        before: Running mean and variance as the step found them, float32 of shape (2, channels).
        batches: The sum of the same of the batches.
        count: How many batches: accumulation, checkpointing, a network that is used twice.
        eps: The layer's.
    """

    before: Tensor
    batches: Tensor
    count: int
    eps: float


class Calibration:
    """Compares running statistics with those of the batch, in normalisation layers that train.

    The batch's statistics need no pass over the activations: they follow from the running ones before and after the
    forward pass, `after = before + momentum * (batch - before)`. For synchronised layers they are those of all ranks.

    Args:
        models: Whose layers; those inside a compiled wrapper are not seen.
        least_batch: The least number of values a channel must have in a batch; of instances in instance norms.
    """

    def __init__(self, models: Sequence[nn.Module], least_batch: int = 16) -> None:
        self._models = models
        self._least_batch = least_batch
        self._handles: list[Any] = []
        self._pending: dict[str, Tensor] = {}
        self._seen: dict[str, _Seen] = {}
        self._samples: Samples[dict[str, int]] = Samples()
        self._streaks: dict[str, int] = {}
        self._told: set[str] = set()
        self._latest: tuple[str, ...] = ()

    def open(self, step: int) -> None:
        """Hook the layers, before the forward pass of a sampled step. What was open is dropped.

        Args:
            step: The number of the step; layers are looked at after a warm-up that depends on their momentum.
        """
        self._drop()
        if step < LEAST_WARM_UP:
            return
        for name, module in hookable(self._models):
            if isinstance(module, _NormBase) and module.track_running_stats and step >= _warm_up(module):
                before, after = (functools.partial(each, name) for each in (self._before_forward, self._after_forward))
                self._handles.append(module.register_forward_pre_hook(Hook(before)))
                self._handles.append(module.register_forward_hook(Hook(after)))

    @torch.no_grad()
    def close(self) -> Tensor | None:
        """Remove the hooks.

        Returns:
            The figures for `judge`, float32 of shape (1 + 2 x layers,): the sample's number, then 2-norms over channels
            of (mean of batch - running mean) / sqrt(running variance + eps), and of
            log2((variance of batch + eps) / (running variance + eps)). None if no layer was seen.
        """
        seen = self._seen
        self._drop()
        if not seen:
            return None
        norms = _gaps(list(seen.values()))
        home = home_of(norms)
        number = self._samples.begun({name: each.before.shape[1] for name, each in seen.items()}, home)
        return torch.stack([number, *(each.to(home) for each in norms)])

    def _drop(self) -> None:
        while self._handles:
            self._handles.pop().remove()
        self._pending, self._seen = {}, {}

    @torch.no_grad()
    def _before_forward(self, name: str, module: _NormBase, _inputs: Any) -> None:
        mean = module.running_mean
        if module.training and mean is not None and is_plain(mean) and not torch.compiler.is_compiling():
            self._pending[name] = _running(module)

    @torch.no_grad()
    def _after_forward(self, name: str, module: _NormBase, inputs: Any, output: Tensor) -> None:
        before = self._pending.pop(name, None)
        if before is None or _values_per_channel(module, output) < self._least_batch:
            return
        batch = _of_update(module, before) if _is_exact(module) else _of_input(module, inputs)
        seen = self._seen.get(name)
        if batch is None:
            return
        if seen is None:
            self._seen[name] = _Seen(before.float(), batch.float(), 1, module.eps)
        elif seen.batches.device == batch.device:  # others are replicas of DataParallel
            seen.batches = seen.batches + batch.float()
            seen.count += 1

    def judge(self, figures: Sequence[float]) -> Iterator[Finding]:
        """Find layers whose statistics were far from the batch's in three samples in a row.

        A layer is told once, and again only when its gaps were half of what is told, or less, in between.

        Args:
            figures: What a `close` returned.
        """
        number, *norms = figures
        layers = self._samples.taken(number)
        self._latest = tuple(layers)
        new = {}
        for (name, channels), *gaps in zip(layers.items(), norms[: len(layers)], norms[len(layers) :], strict=True):
            mean, variance = (gap / math.sqrt(channels) for gap in gaps)
            if math.isnan(mean) or math.isnan(variance):
                continue
            far = mean > MEAN_GAP or variance > VARIANCE_GAP
            self._streaks[name] = self._streaks.get(name, 0) + 1 if far else 0
            if self._streaks[name] >= SAMPLES and name not in self._told:
                self._told.add(name)
                new[name] = mean, variance
            elif mean < MEAN_GAP / 2 and variance < VARIANCE_GAP / 2:
                self._told.discard(name)
        if new:
            mean, variance = next(iter(new.values()))
            yield finding(
                Code.STATISTICS_UNCALIBRATED,
                Severity.WARNING,
                detail=f"{and_more(list(new), 'layer')}: in {SAMPLES} samples in a row the mean of the batch lay "
                f"{mean:.2g} running standard deviations from the running mean, and its variance a factor of "
                f"{2 ** min(variance, 999):.2g} from the running one (root mean squares over channels)",
            )

    @property
    def suspects(self) -> bool:
        """Whether a layer was far off in the last sample and is not told yet: worth another look a few steps on.

        One outlier is forgotten within some 100 steps at the usual momentum.
        """
        return any(0 < self._streaks.get(name, 0) < SAMPLES for name in self._latest)

    def state_dict(self) -> dict[str, Any]:
        """Return for how many samples each layer has been far off, and which were told, as plain values."""
        return {"streaks": dict(self._streaks), "told": sorted(self._told)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what another run has seen."""
        self._streaks, self._told = dict(state["streaks"]), set(state["told"])


def _running(module: _NormBase) -> Tensor:
    """Copy running mean and variance; of shape (2, channels)."""
    assert module.running_mean is not None
    assert module.running_var is not None
    return torch.stack((module.running_mean, module.running_var))


def _warm_up(module: _NormBase) -> float:
    momentum = _momentum(module)
    needed = 5 / momentum if momentum else 0.0
    return needed if LEAST_WARM_UP <= needed <= MOST_WARM_UP else LEAST_WARM_UP


def _momentum(module: _NormBase) -> float | None:
    """Return what a layer moves its statistics by; None for a cumulative mean, which instance norms do not have."""
    return module.momentum or 0.0 if isinstance(module, _InstanceNorm) else module.momentum


def _is_exact(module: _NormBase) -> bool:
    """Return whether the update tells the batch's statistics: there is one, and it is not lost in rounding."""
    return _momentum(module) != 0 and module.running_mean is not None and module.running_mean.dtype.itemsize >= 4


def _of_update(module: _NormBase, before: Tensor) -> Tensor:
    """Return mean and variance of the batch from what it did to the running ones."""
    momentum, tracked = _momentum(module), module.num_batches_tracked
    if momentum is not None:
        return torch.lerp(before, _running(module), 1 / momentum)
    assert tracked is not None
    return torch.lerp(before, _running(module), tracked.to(before.dtype))


def _of_input(module: _NormBase, inputs: Any) -> Tensor | None:
    """Return mean and variance of the batch by a pass over it; None if it was not passed by position."""
    if not inputs:
        return None
    values = inputs[0].detach().flatten(2) if inputs[0].dim() > 2 else inputs[0].detach().unsqueeze(2)
    if isinstance(module, _InstanceNorm):
        variance, mean = torch.var_mean(values.float(), 2, correction=0)
        return torch.stack((mean.mean(0), variance.mean(0)))
    variance, mean = torch.var_mean(values.float(), (0, 2), correction=0)
    return torch.stack((mean, variance))


def _values_per_channel(module: _NormBase, output: Tensor) -> int:
    """Return how many values a channel's statistics are of; for instance norms, the number of instances."""
    if isinstance(module, _InstanceNorm):
        unbatched: int = module._get_no_batch_dim()  # type: ignore[no-untyped-call]
        return output.shape[0] if output.dim() > unbatched else 1
    return output.numel() // max(output.shape[1], 1)


def _gaps(seen: Sequence[_Seen]) -> list[Tensor]:
    """Return the norms over channels of all layers' gaps of the mean, then of the variance."""
    before = [each.before.unbind() for each in seen]
    batch = [(each.batches / each.count).unbind() for each in seen]
    eps = [each.eps for each in seen]
    spread = torch._foreach_add([variance for _, variance in before], eps)
    means = torch._foreach_sub([mean for mean, _ in batch], [mean for mean, _ in before])
    torch._foreach_div_(means, torch._foreach_sqrt(spread))
    ratios = torch._foreach_clamp_min([variance for _, variance in batch], 0.0)
    torch._foreach_add_(ratios, eps)
    torch._foreach_div_(ratios, spread)
    torch._foreach_log2_(ratios)
    return [*torch._foreach_norm(means), *torch._foreach_norm(ratios)]
