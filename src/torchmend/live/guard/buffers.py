"""The buffers that a forward pass may write, kept as they were when a step began.

Legend: everything is flat lists over slots; a slot is one buffer of one module.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

LARGE = 1 << 16
"""Elements. A larger buffer outside of normalisation layers (a mask, a table) is copied only when torch's version
counter says that it was written to; kernels of normalisation layers do not raise that counter."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place where a module keeps a buffer; what lies there may be replaced (`Module.to`).

    Args:
        name: The buffer's name in the model.
        module: Its module.
        key: Its key there.
    """

    name: str
    module: nn.Module
    key: str

    @property
    def tensor(self) -> Tensor | None:
        """What lies there now."""
        return self.module._buffers.get(self.key)

    @property
    def is_statistic(self) -> bool:
        """Whether it belongs to a layer that writes it in a kernel."""
        return isinstance(self.module, _NormBase)


class BufferStore:
    """Copies of buffers, taken when a step begins and written back when it does not happen.

    Args:
        named_modules: The modules whose own buffers are kept, with their names.
    """

    def __init__(self, named_modules: Iterable[tuple[str, nn.Module]]) -> None:
        owned = list(named_modules)
        self.slots = [
            Slot(f"{name}.{key}" if name else key, module, key) for name, module in owned for key in module._buffers
        ]
        self._extra = [module for _, module in owned if _has_extra_state(module)]
        self.kept: list[Tensor | None] = []
        self._lay: list[Tensor | None] = []
        self._versions: list[int] = []
        self._extra_kept: list[object] = []
        self._watched: list[Slot] | None = None

    @torch.no_grad()
    def save(self) -> None:
        """Keep every buffer as it is now."""
        live = [slot.tensor for slot in self.slots]
        if len(self.kept) != len(live) or not all(map(_alike, self.kept, live)):
            self.kept = [None if tensor is None else tensor.detach().clone() for tensor in live]
        else:
            stale = [at for at, slot in enumerate(self.slots) if self._may_differ(at, slot, live[at])]
            _copy([self.kept[at] for at in stale], [live[at] for at in stale])
        self._lay = live
        self._versions = [-1 if tensor is None else tensor._version for tensor in live]
        self._extra_kept = [module.get_extra_state() for module in self._extra]

    def _may_differ(self, at: int, slot: Slot, live: Tensor | None) -> bool:
        if live is None:
            return False
        return (
            slot.is_statistic
            or live.numel() <= LARGE
            or self._lay[at] is not live
            or (self._versions[at] != live._version)
        )

    @torch.no_grad()
    def restore(self) -> None:
        """Write every buffer back as it was kept. Autograd does not see it: safe before and after a backward pass."""
        for at, slot in enumerate(self.slots):
            if _was_replaced(self._lay[at], slot.tensor):
                slot.module._buffers[slot.key] = self._lay[at]
        live = [slot.tensor for slot in self.slots]
        pairs = [(at, tensor) for at, tensor in enumerate(live) if tensor is not None and _fits(self.kept[at], tensor)]
        changed = [(at, tensor) for at, tensor in pairs if self._may_differ(at, self.slots[at], tensor)]
        _copy([tensor.data for _, tensor in changed], [self.kept[at] for at, _ in changed])
        for module, state in zip(self._extra, self._extra_kept, strict=True):
            module.set_extra_state(state)

    def watched(self) -> list[Slot]:
        """Return the floating-point buffers in which a value that is not finite is damage: they had none at first."""
        if self._watched is None:
            self._watched = [
                slot
                for slot in self.slots
                if (tensor := slot.tensor) is not None
                and tensor.is_floating_point()
                and tensor.element_size() > 1
                and (slot.key in _STATISTICS or bool(tensor.isfinite().all()))
                and (slot.is_statistic or tensor.numel() <= LARGE)
            ]
        return self._watched


_STATISTICS = ("running_mean", "running_var")


def _has_extra_state(module: nn.Module) -> bool:
    return type(module).get_extra_state is not nn.Module.get_extra_state


def _was_replaced(before: Tensor | None, live: Tensor | None) -> bool:
    """Return whether a forward pass put another tensor there; one of another kind was put there by `Module.to`."""
    if before is None or live is None:
        return before is not live
    return before is not live and (before.dtype, before.device) == (live.dtype, live.device)


def _fits(kept: Tensor | None, live: Tensor) -> bool:
    """Return whether elements can be written back; `Module.to` may have come between, after a dry run for instance."""
    return kept is not None and kept.shape == live.shape


def _alike(kept: Tensor | None, live: Tensor | None) -> bool:
    if kept is None or live is None:
        return kept is live
    return kept.shape == live.shape and kept.dtype == live.dtype and kept.device == live.device


def _copy(targets: Sequence[Tensor | None], sources: Sequence[Tensor | None]) -> None:
    """Copy tensors in as few launches as their kinds allow."""
    for into, out_of in _by_kind(targets, sources):
        torch._foreach_copy_(into, out_of)


def _by_kind(
    targets: Sequence[Tensor | None], sources: Sequence[Tensor | None]
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    groups: dict[tuple[torch.dtype, torch.device], tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        if target is not None and source is not None:
            into, out_of = groups.setdefault((target.dtype, target.device), ([], []))
            into.append(target)
            out_of.append(source)
    yield from groups.values()
