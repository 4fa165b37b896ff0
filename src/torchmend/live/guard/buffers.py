"""The buffers that a forward pass may write, kept as they were when a step began.

Legend: a slot is one buffer of one module; a pack is a flat copy of many small ones, taken in one launch.
"""

from collections.abc import Iterable
from copy import deepcopy
from operator import is_

import torch
from torch import Tensor, nn

from torchmend.live.guard.packs import Alone, Pack
from torchmend.live.guard.slots import STATISTICS, VARIANCE, Slot, Watched, is_bad

LARGE = 1 << 16
"""Elements. A larger buffer outside of normalisation layers (a mask, a table) is copied only when torch's version
counter says that it was written to, or a comparison after its first step; kernels of normalisation layers and writes
through `.data` do not raise that counter."""


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
        self._places = [(slot.module._buffers, slot.key) for slot in self.slots]
        self._extra = [module for _, module in owned if type(module).get_extra_state is not nn.Module.get_extra_state]
        self._extra_kept: list[object] = []
        self._lay: list[Tensor | None] = []
        self._home = self._live()
        self._away: dict[int, tuple[Tensor, Tensor]] = {}
        self._watches: list[bool] = []
        self._has_looked = False
        self._packs: list[Pack] = []
        self._alone: list[Alone] = []

    # Keeping and putting back

    @torch.inference_mode(False)  # else copies of a dry run under inference mode could never be written again
    @torch.no_grad()
    def save(self) -> None:
        """Keep every buffer as it is now."""
        live = self._live()
        are_others = len(live) != len(self._lay) or not all(map(is_, live, self._lay))
        if are_others or self._away:
            self._away = {
                at: (home, home.detach().clone())
                for at, home in enumerate(self._home)
                if home is not None and home is not live[at]
            }
        if are_others:
            if len(live) != len(self._lay) or not all(map(_alike, live, self._lay)):
                self._arrange(live)
            self._lay = live
        for pack in self._packs:
            pack.fill(live)
        for each in self._alone:
            each.fill(live)
        self._extra_kept = [deepcopy(module.get_extra_state()) for module in self._extra]

    def settle(self) -> None:
        """Take what lies there now, outside of any forward pass, for the modules' own."""
        if self._away:
            self._away, self._home = {}, self._live()

    def _is_back(self, at: int) -> bool:
        """Return whether what lay there when the step began was lent for a `functional_call`, which has ended."""
        return at in self._away and self.slots[at].tensor is self._away[at][0]

    def _live(self) -> list[Tensor | None]:
        return [buffers.get(key) for buffers, key in self._places]

    def _arrange(self, live: list[Tensor | None]) -> None:
        """Decide which buffers are kept side by side, and which alone; variances come first."""
        if not self._watches:
            self._watches = [
                tensor is not None and _is_watched(slot, tensor) for slot, tensor in zip(self.slots, live, strict=True)
            ]
        groups: dict[tuple[torch.dtype, torch.device, bool], list[int]] = {}
        self._alone = []
        for at in sorted(range(len(live)), key=lambda at: self.slots[at].key != VARIANCE):
            tensor, is_small = live[at], self.slots[at].is_statistic
            if tensor is None:
                continue
            is_small |= tensor.numel() <= LARGE
            if is_small and _may_be_packed(tensor):
                groups.setdefault((tensor.dtype, tensor.device, self._watches[at]), []).append(at)
            else:
                self._alone.append(Alone(at, tensor, always=is_small))
        variances = {at for at, slot in enumerate(self.slots) if slot.key == VARIANCE}
        self._packs = [Pack(places, live, variances, watched=key[2]) for key, places in groups.items()]

    @property
    def kept(self) -> list[Tensor | None]:
        """The copies, slot by slot; None where nothing lay, or nothing was kept yet."""
        found = {each.at: each.copy for each in self._alone}
        for pack in self._packs:
            found.update(pack.parts())
        return [found.get(at) for at in range(len(self.slots))]

    @property
    def nbytes(self) -> int:
        """Bytes that the copies take."""
        return sum(copy.nbytes for copy in self.kept if copy is not None)

    @torch.no_grad()
    def restore(self) -> None:
        """Write every buffer back as it was kept. Autograd does not see it: safe before and after a backward pass."""
        for at, (slot, lay) in enumerate(zip(self.slots, self._lay, strict=False)):
            if not self._is_back(at) and _was_replaced(lay, slot.tensor):
                slot.module._buffers[slot.key] = lay
        unchanged = {each.at for each in self._alone if not each.may_differ(self.slots[each.at].tensor)}
        for at, (live, copy) in enumerate(self._pairs()):
            if at not in unchanged and live is not None and copy is not None:
                live.data.copy_(copy)
        for module, state in zip(self._extra, self._extra_kept, strict=False):
            module.set_extra_state(deepcopy(state))

    @torch.no_grad()
    def restore_where(self, flag: Tensor) -> None:
        """Write every buffer back if a flag on the device says so, which the host does not read.

        Args:
            flag: A boolean scalar.
        """
        for live, copy in self._pairs():
            if live is not None and copy is not None:
                live.data.copy_(torch.where(flag, copy, live))

    def _pairs(self) -> Iterable[tuple[Tensor | None, Tensor | None]]:
        """Yield what lies in each slot with its copy, which is None if it does not fit."""
        for at, (slot, copy) in enumerate(zip(self.slots, self.kept, strict=True)):
            live = slot.tensor
            if self._is_back(at):
                yield self._away[at]
                continue
            yield live, copy if live is not None and copy is not None and live.shape == copy.shape else None

    # Looking

    @torch.no_grad()
    def watched(self) -> list[Watched]:
        """Return the floating-point buffers in which a value that is not finite is damage: they had none at first."""
        if not self._has_looked:
            self._has_looked = True
            self._pass_over_masks()
        live = self._live()
        return [pack.look(live) for pack in self._packs if pack.is_watched]

    def _pass_over_masks(self) -> None:
        """Watch no more additive masks that the first step filled; anything else that is not finite is damage."""
        live, kept = self._live(), self.kept
        watched = [at for at, is_watched in enumerate(self._watches) if is_watched]
        masks = [at for at in watched if self.slots[at].key not in STATISTICS and _is_mask(live[at])]
        if masks:
            for at in masks:
                self._watches[at] = False
            alone = self._alone
            self._arrange(self._lay)
            self._alone = alone
            for pack in self._packs:
                pack.fill(kept)

    def first_bad(self) -> str:
        """Name the first watched buffer that is not as it should be; empty if all are. Reads from the device."""
        of = zip(self.slots, self._watches, strict=False)
        return next((slot.name for slot, is_watched in of if is_watched and is_bad(slot.key, slot.tensor)), "")


def _is_watched(slot: Slot, tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.element_size() == 1:
        return False
    is_sound = slot.key in STATISTICS or bool(tensor.isfinite().all())
    return is_sound and (slot.is_statistic or tensor.numel() <= LARGE)


def _is_mask(tensor: Tensor | None) -> bool:
    """Return whether the elements are 0 and -Inf only, of an additive mask."""
    return tensor is not None and bool(tensor.isneginf().any()) and bool((tensor.isneginf() | (tensor == 0)).all())


def _may_be_packed(tensor: Tensor) -> bool:
    is_plain = type(tensor) is Tensor and tensor.layout is torch.strided and not tensor.is_quantized
    return is_plain and (tensor.element_size() > 1 or not tensor.is_floating_point())


def _was_replaced(before: Tensor | None, live: Tensor | None) -> bool:
    """Return whether a forward pass put another tensor there; one of another kind was put there by `Module.to`."""
    if before is None or live is None:
        return before is not live
    return before is not live and not was_moved(before, live)


def was_moved(before: Tensor | None, live: Tensor | None) -> bool:
    """Return whether `Module.to` put another tensor there."""
    if before is None or live is None or before.shape != live.shape:
        return False
    return (before.dtype, before.device) != (live.dtype, live.device)


def _alike(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
