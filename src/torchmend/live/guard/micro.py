"""Under gradient accumulation: one bad micro-batch is dropped alone, and the others count for it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from torchmend.live.guard.buffers import BufferStore
from torchmend.live.ownership import Named


class MicroBatches:
    """Keeps gradients and buffers as the last good micro-batch left them. Costs a copy of the gradients.

    Args:
        modules: Whose buffers.
    """

    def __init__(self, modules: Sequence[Named]) -> None:
        self._buffers = BufferStore(modules)
        self._gradients: list[tuple[Tensor, Tensor | None]] = []
        self.good = 0
        self.dropped = 0

    def begin(self) -> None:
        """Begin a step: no micro-batch has come yet."""
        self._buffers.save()
        self._gradients = []
        self.good = self.dropped = 0

    @torch.no_grad()
    def keep(self, parameters: Sequence[Tensor]) -> None:
        """Keep what a good micro-batch left."""
        self._gradients = [(each, None if each.grad is None else each.grad.detach().clone()) for each in parameters]
        self._buffers.save()
        self.good += 1

    def drop(self, parameters: Sequence[Tensor]) -> None:
        """Undo a bad micro-batch: gradients and buffers go back to what the last good one left."""
        kept = {id(parameter): gradient for parameter, gradient in self._gradients}
        for parameter in parameters:
            gradient = kept.get(id(parameter))
            parameter.grad = None if gradient is None else gradient.clone()
        self._buffers.restore()
        self.dropped += 1

    @torch.no_grad()
    def renormalise(self, parameters: Sequence[Tensor]) -> None:
        """Let the good micro-batches count for those that were dropped: a mean over fewer."""
        if self.dropped and self.good:
            gradients = [each.grad for each in parameters if each.grad is not None]
            torch._foreach_mul_(gradients, (self.good + self.dropped) / self.good)
