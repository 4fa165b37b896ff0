"""Forward passes that measure what layers get: one layer at a time, in order of execution."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from torchmend.facts.errors import UserError
from torchmend.live.recalibrating.batches import Forward
from torchmend.live.recalibrating.layers import Layer
from torchmend.live.recalibrating.moments import Moments, merged

FEWEST_BY_BATCH = 8
"""Values a channel: with fewer, what a layer gives depends on the batch's size more than on the layer."""


class _Reached(BaseException):
    """Ends a forward pass once all has been seen; not an Exception, which a model may catch."""


class Passes:
    """Runs a model, and measures what its layers get.

    A layer without statistics that can be trusted yet normalises by the batch, so that everything behind it gets
    finite values of the usual size, and so does it itself where it is called again. Its own way of evaluating is
    used for that, with the batch's statistics in its buffers.

    Args:
        model: In evaluation mode, and without wrappers.
        forward: Runs it on a batch.
        pending: Layers without statistics yet.
        by_batch: Layers, whose statistics may be good, that normalise by the batch as well, and do so to the end.
    """

    def __init__(
        self, model: nn.Module, forward: Forward, pending: Sequence[Layer], by_batch: Sequence[Layer] = ()
    ) -> None:
        self._times: Counter[Layer] = Counter()
        self._targets = frozenset(pending)
        self._by_batch = frozenset(by_batch)
        self._is_tracing = False
        self._model = model
        self._forward = forward
        self._pending = {*pending, *by_batch}
        self._measured: Sequence[Layer] = ()
        self._seen: dict[Layer, list[Moments]] = {}
        self._last: Layer | None = None

    @contextmanager
    def hooked(self) -> Iterator["Passes"]:
        """Hook the layers while this lasts."""
        handles = []
        try:
            for layer in self._pending:
                hook = partial(self._before_layer, layer)
                handles.append(layer.module.register_forward_pre_hook(hook, with_kwargs=True))
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def order(self, batch: Any) -> list[Layer]:
        """Trace one forward pass: return the pending layers in the order of their first calls."""
        self._is_tracing = True
        self._run(batch)
        self._is_tracing = False
        return [layer for layer in self._times if layer in self._targets]

    def settle(self, layer: Layer) -> None:
        """Take a layer's statistics as good: it normalises by them from now on."""
        self._pending -= {layer} - self._by_batch

    def of_layer(self, layer: Layer, batches: Sequence[Any]) -> list[Moments | None]:
        """Measure one layer over all batches; passes end at its only call.

        Returns:
            Moments of each batch; None for one in which the layer was not called.
        """
        self._last = layer if self._times[layer] == 1 else None
        return self.of_layers([layer], batches)[layer]

    def of_layers(self, layers: Sequence[Layer], batches: Sequence[Any]) -> dict[Layer, list[Moments | None]]:
        """Measure several layers at once over all batches."""
        found: dict[Layer, list[Moments | None]] = {layer: [] for layer in layers}
        self._measured = layers
        for batch in batches:
            self._seen = {}
            self._run(batch)
            for layer in layers:
                found[layer].append(merged(self._seen[layer]) if layer in self._seen else None)
        self._measured, self._last = (), None
        return found

    def _run(self, batch: Any) -> None:
        try:
            self._forward(self._model, batch)
        except _Reached:
            pass  # all that this pass was for has been seen

    def _before_layer(self, layer: Layer, _: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if self._is_tracing:
            self._times[layer] += 1
        is_measured, is_pending = layer in self._measured, layer in self._pending
        if not (is_measured or is_pending):
            return
        moments = layer.measure(arguments, keywords)
        if layer in self._by_batch and moments.values < FEWEST_BY_BATCH:
            raise UserError(
                f"{layer.name} gets {moments.values} values a channel from a batch of noise, too few to normalise by: "
                f"it takes {FEWEST_BY_BATCH}. Pass noise of a larger batch size; its first number."
            )
        if is_measured:
            self._seen.setdefault(layer, []).append(moments)
            if layer is self._last:
                raise _Reached
        if is_pending:
            layer.write(moments.mean, moments.spread)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Have what `torch.compile` made run as it was written, so that hooks are called."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
