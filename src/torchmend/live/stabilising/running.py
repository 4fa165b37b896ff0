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


def in_half(model: nn.Module, *, cached: bool = True) -> AbstractContextManager[object]:
    """Return autocast: the caller's if it is on, else to float16; nothing where weights are in half precision.

    Args:
        model: What is run.
        cached: Whether casts of weights are kept for the next use. What is cached without gradients stays without.
    """
    kind = next((each.device.type for each in model.parameters()), "cpu")
    if any(each.dtype in HALVES for each in model.parameters()):
        return nullcontext()
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float16
    return torch.autocast(kind, dtype, cache_enabled=cached)
