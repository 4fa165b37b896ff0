"""`torchmend.recalibrate`: running statistics measured again, in order of execution, on batches that are screened."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchmend.facts.errors import UserError
from torchmend.facts.plans import Rung
from torchmend.live.ownership import inner_model
from torchmend.live.recalibrating.batches import Forward, Noise, first_batches, run
from torchmend.live.recalibrating.keeping import KeptBuffers, undisturbed
from torchmend.live.recalibrating.layers import (
    DAMAGED,
    MEAN,
    VARIANCE,
    Layer,
    chosen_layers,
    normalising_layers,
    tracking_layers,
)
from torchmend.live.recalibrating.moments import Moments, merged
from torchmend.live.recalibrating.outliers import left_out
from torchmend.live.recalibrating.passes import Passes, uncompiled
from torchmend.live.recalibrating.results import Recalibration, Reestimate
from torchmend.live.recalibrating.survivors import matched

FEWEST_BATCHES = 2
FEWEST_VALUES = 16
"""A channel: a variance of 16 values is off by a third."""

Evaluate = Callable[[nn.Module], float]
"""Returns a metric of the model."""


def recalibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: str | Iterable[str] = DAMAGED,
    forward: Forward | None = None,
    evaluate: Evaluate | None = None,
    most_batches: int = 32,
) -> Recalibration:
    """Measure the running statistics of normalisation layers again, on data or on `noise`.

    One damaged layer after the other, in order of execution: the batches are run through the model in evaluation mode,
    with everything before the layer as it will be used, and mean and unbiased variance of all that the layer gets are
    taken together, exactly. On noise, healthy layers normalise by the batch too: what comes out of them then has the
    mean and the deviation that it has on data, however little noise looks like data; and a layer of which channels
    survived has the others brought to their scale. A batch whose statistics at a
    layer are not finite, or far from those of the others, is left out there. Layers are those that have buffers
    `running_mean` and `running_var`: all of torch's, and others with channels on axis 1. InstanceNorm gets the average
    over instances, as in training; for a layer that is called several times in a forward pass, all calls count alike.

    Only the statistics change; `num_batches_tracked`, which counts batches of training, stays. Modes, other buffers,
    and random generators are as before afterwards. After an exception, the statistics are too, bit for bit.

    Args:
        model: On any devices, in any mode; one that is compiled or wrapped is run without that.
        batches: Data loader or list, at best shuffled. A batch is a tensor; a tuple, whose first element is the input
            and may be a tuple of arguments or a dictionary of keywords; or a dictionary of keywords. Or `noise(...)`.
        layers: `damaged` writes just the damaged elements of layers that have some; `all` writes every layer whole,
            and so do names, which may be those of modules that hold layers.
        forward: Called with model and batch instead, for models that need something else.
        evaluate: Called with the model, in evaluation mode, before and after; returns a metric.
        most_batches: How many batches are read. They are kept in memory meanwhile, since each layer takes forward
            passes over all of them, up to itself.

    Returns:
        What was measured, from how many batches, and the metric before and after.

    Raises:
        TypeError: An argument is of another kind.
        UserError: A name is of no layer, the forward pass calls no layer, or too few batches are good.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"Got a {type(model).__name__}. Pass a torch.nn.Module.")
    if any(isinstance(each, torch.jit.ScriptModule) for each in model.modules()):
        raise UserError("This model is a ScriptModule or holds one. Recalibrate the module that it was made from.")
    inner, rung = inner_model(model), Rung.NOISE if isinstance(batches, Noise) else Rung.DATA
    with undisturbed(inner) as buffers, uncompiled(), torch.no_grad():
        before = float(evaluate(model)) if evaluate is not None else None
        job = _Job(inner, forward or run, buffers, rung, only_damaged=layers == DAMAGED)
        if any(is_lazy(each) for each in (*inner.parameters(), *inner.buffers())):
            batches = first_batches(batches, most_batches)
            job.materialise(batches[0])
        targets = chosen_layers(tracking_layers(inner), layers, dict(inner.named_modules(remove_duplicate=False)))
        tensors, uncalled = job.run(targets, first_batches(batches, most_batches)) if targets else ((), ())
        after = before if not tensors else float(evaluate(model)) if evaluate is not None else None
    return Recalibration(tensors=tensors, uncalled=uncalled, before=before, after=after)


@dataclass(frozen=True, slots=True)
class _Estimate:
    """What a layer's statistics should be, and what they were."""

    layer: Layer
    whole: Moments
    batches: int
    left_out: tuple[int, ...]


class _Job:
    """One recalibration of a model in evaluation mode."""

    def __init__(
        self, model: nn.Module, forward: Forward, buffers: KeptBuffers, rung: Rung, *, only_damaged: bool
    ) -> None:
        self._model = model
        self._forward = forward
        self._buffers = buffers
        self._rung = rung
        self._only_damaged = only_damaged

    def materialise(self, batch: Any) -> None:
        """Have lazy modules take their shapes."""
        self._forward(self._model, batch)

    def run(self, targets: Sequence[Layer], batches: Sequence[Any]) -> tuple[tuple[Reestimate, ...], tuple[str, ...]]:
        """Measure the layers and write what was found; return it, and the names of the layers never called."""
        chosen = {layer: _Chosen.of(layer, only_damaged=self._only_damaged) for layer in targets}
        by_batch = normalising_layers(self._model) if self._rung is Rung.NOISE else ()
        with Passes(self._model, self._forward, targets, by_batch).hooked() as passes:
            order = passes.order(batches[0])
            if not order:
                raise UserError(
                    f"The forward pass calls none of the {len(targets)} layers to recalibrate, such as "
                    f"{targets[0].name!r}: it may branch, or call their `forward` without hooks. Pass forward=..."
                )
            estimates = []
            together = passes.of_layers(order, batches) if by_batch else {}
            for layer in order:
                estimates.append(self._estimated(layer, together.get(layer) or passes.of_layer(layer, batches)))
                self._write(estimates[-1], chosen[layer])
                passes.settle(layer)
        new = [(layer, layer.mean.clone(), layer.variance.clone()) for layer in order]
        self._buffers.put_back()  # the rest of what the passes may have written
        for layer, mean, variance in new:
            layer.write(mean, variance)
        return (
            tuple(each for estimate in estimates for each in self._told(estimate, chosen[estimate.layer])),
            tuple(layer.name for layer in targets if layer not in order),
        )

    def _estimated(self, layer: Layer, measured: Sequence[Moments | None]) -> _Estimate:
        bad = left_out(measured, layer.eps)
        good = [each for at, each in enumerate(measured) if each is not None and at not in bad]
        values = sum(each.values for each in good)
        if len(good) < FEWEST_BATCHES or values < FEWEST_VALUES:
            raise UserError(self._too_few(layer, len(measured), good=len(good), values=values, bad=bad))
        return _Estimate(layer, merged(good), len(good), bad)

    def _too_few(self, layer: Layer, given: int, *, good: int, values: int, bad: Sequence[int]) -> str:
        what = f"Of {given} batches {good} can be used at {layer.name}, with {values} values a channel"
        need = f"it takes {FEWEST_BATCHES} batches and {FEWEST_VALUES} values"
        if good >= FEWEST_BATCHES or not bad:
            return f"{what}; {need}. Pass more or larger batches. The model is as it was."
        weight = next((n for n, each in self._model.named_parameters() if not bool(each.isfinite().all())), "")
        numbers = ", ".join(map(str, bad[:8])) + (", ..." if len(bad) > 8 else "")
        then = (
            f"{weight} is damaged itself: repair it first, from a donor"
            if weight
            else "Look at what the model gets, or pass other batches"
        )
        why = f"since those of batches {numbers} are not finite or far off"
        return f"{what}, {why}; {need}. {then}. The model is as it was."

    def _write(self, estimate: _Estimate, chosen: "_Chosen") -> None:
        layer, whole = estimate.layer, estimate.whole
        mean, variance = whole.mean, whole.variance
        if self._rung is Rung.NOISE and self._only_damaged:
            mean, variance = matched(whole, chosen.old_mean, chosen.old_variance, layer.eps)
        mean = _over(chosen.old_mean, mean, chosen.mean)
        variance = _over(chosen.old_variance, variance, chosen.variance)
        layer.write(mean, variance)
        if layer.is_damaged:
            raise UserError(
                f"The statistics of {layer.name} do not fit into {layer.mean.dtype}: the largest is "
                f"{float(max(mean.abs().max(), variance.max())):.3g}. Keep them in float32. The model is as it was."
            )

    def _told(self, estimate: _Estimate, chosen: "_Chosen") -> list[Reestimate]:
        return [
            Reestimate(
                name=estimate.layer.named(key),
                rung=self._rung,
                elements=tuple(mask.nonzero().flatten().tolist()),
                values=estimate.whole.values,
                batches=estimate.batches,
                left_out=estimate.left_out,
            )
            for key, mask in ((MEAN, chosen.mean), (VARIANCE, chosen.variance))
            if mask.any()
        ]


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Which elements of a layer are to be written, and what all were before; each of shape [C]."""

    mean: Tensor
    variance: Tensor
    old_mean: Tensor
    old_variance: Tensor

    @classmethod
    def of(cls, layer: Layer, *, only_damaged: bool) -> "_Chosen":
        bad_mean, bad_variance = layer.bad_mean, layer.bad_variance
        if not only_damaged:
            bad_mean, bad_variance = torch.ones_like(bad_mean), torch.ones_like(bad_variance)
        return cls(bad_mean, bad_variance, layer.mean.clone(), layer.variance.clone())


def _over(old: Tensor, new: Tensor, where: Tensor) -> Tensor:
    """Put new values, rounded, where they are wanted; the rest keep their bits."""
    return torch.where(where, new.to(old.device, old.dtype), old)
