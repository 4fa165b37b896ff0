"""A model while it is run for its statistics: in evaluation mode, and afterwards as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchmend.live.elements import detached
from torchmend.live.rng import rng_kept


class KeptBuffers:
    """Copies of all buffers of a model, to be put back bit for bit.

    Args:
        model: Whose buffers.
    """

    def __init__(self, model: nn.Module) -> None:
        self._kept = [
            (module, key, buffer, _copy(buffer))
            for module in model.modules()
            for key, buffer in module._buffers.items()
        ]

    def put_back(self) -> None:
        """Make every buffer what it was, the same tensor with the same bits."""
        for module, key, buffer, copy in self._kept:
            module._buffers[key] = buffer
            if buffer is not None and copy is not None:
                with torch.inference_mode(buffer.is_inference()):
                    detached(buffer).copy_(copy)


def _copy(buffer: Tensor | None) -> Tensor | None:
    if buffer is None or is_lazy(buffer) or buffer.is_meta:
        return None
    return detached(buffer).clone()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[KeptBuffers]:
    """Put a model into evaluation mode; afterwards modes and random generators are as before.

    Modes are set one by one, since `eval` and `train` of a user's class may do more. After an exception, Ctrl-C
    included, the buffers are as before too.

    Yields:
        The buffers as they are.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = KeptBuffers(model)
    with rng_kept(list({each.device for each in model.parameters()})):
        try:
            for module, _ in modes:
                module.training = False
            yield buffers
        except BaseException:
            buffers.put_back()
            raise
        finally:
            for module, mode in modes:
                module.training = mode
