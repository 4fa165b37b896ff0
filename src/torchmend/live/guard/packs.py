"""Copies of buffers: flat ones of many small buffers, taken in one launch, and those of buffers that are kept alone."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from torchmend.live.guard.slots import Watched


class Pack:
    """Buffers of one type on one device, and a flat copy of them.

    Args:
        places: Their slots, running variances first.
        live: What lies in all slots.
        variances: Which slots hold running variances.
        watched: Whether they are watched.
    """

    def __init__(self, places: list[int], live: Sequence[Tensor | None], variances: set[int], *, watched: bool) -> None:
        tensors = [tensor for at in places if (tensor := live[at]) is not None]
        self.is_watched = watched
        self._places = places
        self._shapes = [tensor.shape for tensor in tensors]
        self._sizes = [tensor.numel() for tensor in tensors]
        self._variances = sum(size for at, size in zip(places, self._sizes, strict=True) if at in variances)
        self._is_flat = all(tensor.dim() == 1 for tensor in tensors)
        self._flat = torch.empty(sum(self._sizes), dtype=tensors[0].dtype, device=tensors[0].device)

    def fill(self, live: Sequence[Tensor | None]) -> None:
        """Copy what lies in the slots now."""
        torch.cat(self._rows(live), out=self._flat)

    def parts(self) -> Iterable[tuple[int, Tensor]]:
        """Yield each slot with its copy."""
        parts = torch.split(self._flat, self._sizes)
        return zip(self._places, (part.view(s) for part, s in zip(parts, self._shapes, strict=True)), strict=True)

    def look(self, live: Sequence[Tensor | None]) -> Watched:
        """Put what lies in the slots now beside its copy."""
        now = torch.cat(self._rows(live))
        return Watched(now=now, before=self._flat if len(now) == len(self._flat) else None, variances=self._variances)

    def _rows(self, live: Sequence[Tensor | None]) -> list[Tensor]:
        if self._is_flat:
            return [tensor for at in self._places if (tensor := live[at]) is not None]
        return [tensor.reshape(-1) for at in self._places if (tensor := live[at]) is not None]


class Alone:
    """A buffer that is kept by itself: large, or of a type that does not lie beside others.

    Args:
        at: Its slot.
        tensor: What lies there.
        always: Whether it is copied at every step, or only when it was written to.
    """

    def __init__(self, at: int, tensor: Tensor, *, always: bool) -> None:
        self.at = at
        self.copy = tensor.detach().clone()
        self._always = always
        self._is_fresh, self._was_compared = True, always
        self._of, self._version = tensor, tensor._version

    def may_differ(self, live: Tensor | None) -> bool:
        """Return whether what lies there may not be what was copied.

        The first time that nothing says so they are compared: codebooks, for one, are often written through `.data`.
        """
        if live is not None and not self._was_compared and live is self._of and live._version == self._version:
            self._was_compared, self._always = True, not torch.equal(live, self.copy)
        return self._always or live is not self._of or live._version != self._version

    def fill(self, live: Sequence[Tensor | None]) -> None:
        """Copy what lies there now, if it may have changed."""
        tensor = live[self.at]
        if self._is_fresh:  # nothing has had the time to write to it
            self._is_fresh = False
            return
        if tensor is not None and self.may_differ(tensor):
            self.copy.copy_(tensor)
            self._of, self._version = tensor, tensor._version
