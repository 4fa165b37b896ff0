"""Weights and batches that a forward pass writes into, kept as they were while a batch is run again."""

from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchmend.live.forensics.batches import reachable
from torchmend.live.tensors import is_plain


class Untouched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Copies what is about to be written to, while it is entered; at the end all is as it was.

    A model may move a second encoder's weights in its forward pass, a loss may scale its batch in place, or go backward
    itself. Of what is not written to no copy is made.

    Args:
        models: Their parameters, gradients and modes are kept.
        others: Tensors that are kept as well.
    """

    def __init__(self, models: Sequence[nn.Module], others: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._parameters = [each for model in models for each in model.parameters()]
        self._modules = [each for model in models for each in model.modules()]
        kept = {id(each): each for each in (*self._parameters, *others) if is_plain(each) and not each.is_inference()}
        self._homes = [(each, each.data) for each in kept.values()]
        self._by_storage: dict[int, list[Tensor]] = {}
        for each in kept.values():
            self._by_storage.setdefault(_storage(each), []).append(each)
        self._copies: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._gradients: list[tuple[Tensor, Tensor | None, bool]] = []
        self._modes: list[bool] = []

    def __enter__(self) -> Self:
        self._gradients = [(each, each.grad, each.requires_grad) for each in self._parameters]
        self._modes = [each.training for each in self._modules]
        for each in self._parameters:
            each.grad = None  # else a loss that goes backward itself would add to it
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self.restore()
        for each, gradient, takes in self._gradients:
            each.requires_grad_(takes)
            each.grad = gradient

    def has_written(self, tensors: Iterable[Tensor]) -> bool:
        """Return whether one of some tensors was written to meanwhile."""
        return any(is_plain(each) and _storage(each) in self._copies for each in tensors)

    @torch.no_grad()
    def restore(self) -> None:
        """Put back what was written to."""
        for each, home in self._homes:
            if _storage(each) != _storage(home):  # by `.data = ...`
                each.data = home
        for copies in self._copies.values():
            for each, copy in copies:
                each.data.copy_(copy)
        for module, mode in zip(self._modules, self._modes, strict=True):
            module.training = mode

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for at, each in enumerate(func._schema.arguments):
                if each.alias_info is not None and each.alias_info.is_write:
                    self._keep(args[at] if at < len(args) else kwargs.get(each.name))
        return func(*args, **kwargs)

    def _keep(self, written: Any) -> None:
        for each in filter(is_plain, reachable(written)):
            at = _storage(each)
            if at in self._by_storage and at not in self._copies:
                self._copies[at] = [(one, one.detach().clone()) for one in self._by_storage[at]]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
