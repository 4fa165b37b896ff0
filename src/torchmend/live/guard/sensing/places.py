"""What the sampled sensors share: which modules they hook, by which names, and where figures are put together."""

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from torchmend.live.ownership import Named, may_be_hooked, plain

Context = TypeVar("Context")


class Samples(Generic[Context]):
    """What the samples are of whose figures are under way; figures may be read some steps later, or never."""

    def __init__(self) -> None:
        self._count = 0
        self._contexts: dict[int, Context] = {}

    def begun(self, context: Context, home: torch.device) -> Tensor:
        """Remember a sample, and return its number, which travels with the figures; float32, shape ()."""
        self._count += 1
        self._contexts[self._count] = context
        return torch.full((), float(self._count), device=home)

    def taken(self, number: float) -> Context:
        """Return what a sample is of, and forget it and those before it."""
        context = self._contexts[int(number)]
        self._contexts = {each: kept for each, kept in self._contexts.items() if each > number}
        return context


def hookable(models: Sequence[nn.Module]) -> list[Named]:
    """Return the modules on which hooks are called, each by a name of its own.

    A root has the name of its class. Where two models use the same name, the later one's is followed by its number.
    """
    hooked = may_be_hooked(models)
    named: dict[str, nn.Module] = {}
    for number, model in enumerate(models, 1):
        for path, module in model.named_modules():
            if module in hooked and not isinstance(module, torch.jit.ScriptModule):
                name = plain(path) or type(module).__name__
                named[f"{name} (model {number})" if name in named else name] = module
    return list(named.items())


def home_of(tensors: Iterable[Tensor]) -> torch.device:
    """Return where figures are put together. Never the host, if there is a device: to bring them there is to wait."""
    devices = [tensor.device for tensor in tensors]
    return next((device for device in devices if device.type != "cpu"), devices[0])


def and_more(names: Sequence[str], kind: str) -> str:
    """Name the first, and say how many more there are."""
    more = len(names) - 1
    return names[0] if not more else f"{names[0]} (and {more} more {kind}{'s' if more > 1 else ''})"
