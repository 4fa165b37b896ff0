"""Where modules keep buffers, and what lies there side by side to be looked at."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

VARIANCE = "running_var"
STATISTICS = ("running_mean", VARIANCE)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Buffers of one type on one device, side by side, running variances first.

    Args:
        now: As they are; shape (n,).
        before: As they were when the step began; shape (n,). None if nothing was kept, or they changed shape since.
        variances: How many of the elements, from the front, are running variances.
    """

    now: Tensor
    before: Tensor | None
    variances: int


def side_by_side(slots: Sequence[Slot]) -> list[Watched]:
    """Put what lies in slots side by side, where no copy was kept."""
    groups: dict[tuple[torch.dtype, torch.device], tuple[list[Tensor], list[Tensor]]] = {}
    for slot in slots:
        if (tensor := slot.tensor) is not None:
            variances, others = groups.setdefault((tensor.dtype, tensor.device), ([], []))
            (variances if slot.key == VARIANCE else others).append(tensor.detach().reshape(-1))
    return [
        Watched(now=torch.cat((*variances, *others)), before=None, variances=sum(map(len, variances)))
        for variances, others in groups.values()
    ]


def is_bad(key: str, tensor: Tensor | None) -> bool:
    """Return whether a buffer holds what no sound one holds. Reads from the device."""
    if tensor is None:
        return False
    return not bool(tensor.isfinite().all()) or (key == VARIANCE and bool((tensor < 0).any()))
