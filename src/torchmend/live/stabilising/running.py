"""A model while it is run as in training, to look at it: afterwards nothing of it has changed."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from torchmend.live.recalibrating.keeping import undisturbed
from torchmend.live.recalibrating.passes import uncompiled
from torchmend.live.stabilising.widening import HALVES


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Keep a model's modes; afterwards its buffers and all random generators are as before, to the bit."""
    modes = [(module, module.training) for module in model.modules()]
    with undisturbed(model) as buffers, uncompiled():
        for module, mode in modes:
            module.training = mode
        try:
            yield
        finally:
            buffers.put_back()


def in_half(model: nn.Module) -> AbstractContextManager[object]:
    """Return autocast to float16, unless the caller's is on already or the weights are in half precision."""
    kind = next((each.device.type for each in model.parameters()), "cpu")
    narrow = any(each.dtype in HALVES for each in model.parameters())
    if narrow or torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, torch.float16, cache_enabled=False)  # what is cached without gradients stays so
