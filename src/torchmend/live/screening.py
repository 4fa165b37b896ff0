"""Is a model sound? One cheap pass that only answers yes, or "look closer"; one transfer a device."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from torchmend.live.device import as_floats
from torchmend.live.elements import detached, element_of, local_part, why_unreadable
from torchmend.rules.roles import SECOND_MOMENTS

STATISTICS = ("running_mean", "running_var")


def is_statistic(name: str) -> bool:
    """Return whether a tensor of this name may be a running statistic."""
    return name.rpartition(".")[2] in STATISTICS


def is_evidently_sound(model: nn.Module, *, statistics_only: bool = False) -> bool:
    """Return True only if every element is finite and no running variance is below zero.

    That leaves nothing that the rules call an error in a model. False means that it has to be looked at closely:
    a norm may overflow on finite elements, and infinities are legal in some buffers.

    Args:
        model: On any devices.
        statistics_only: Look at running means and variances alone.
    """
    return are_evidently_sound(_distinct_tensors(model, statistics_only))


def are_evidently_sound(tensors: Iterable[tuple[str, Tensor]]) -> bool:
    """Return True only if every element is finite and no running variance or second moment is below zero.

    Args:
        tensors: With their names, of which the last part counts; on any devices.
    """
    by_device: dict[torch.device, _Pile] = {}
    for name, tensor in tensors:
        local = local_part(tensor)
        if why_unreadable(local) or not element_of(local).is_floating or not local.numel():
            continue
        if (pile := by_device.get(local.device)) is None:
            pile = by_device[local.device] = _Pile()
        pile.add(name.rpartition(".")[2], as_floats(detached(local)))
    return all(bool(pile.verdict()) for pile in by_device.values())


def _distinct_tensors(model: nn.Module, statistics_only: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of each module once, with their last names: building whole names would take longest."""
    seen = {model}
    stack = [model]
    while stack:
        module = stack.pop()
        if statistics_only:
            buffers = module._buffers
            pairs = [(name, buffers[name]) for name in STATISTICS if name in buffers]
        else:
            pairs = [*module._parameters.items(), *module._buffers.items()]
        yield from ((name, tensor) for name, tensor in pairs if tensor is not None)
        for child in module._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                stack.append(child)


class _Pile:
    """The tensors of one device, by type and by what is asked of them."""

    def __init__(self) -> None:
        self.statistics: dict[tuple[bool, torch.dtype], list[Tensor]] = {}
        self.rest: dict[torch.dtype, list[Tensor]] = {}
        self.moments: list[Tensor] = []

    def add(self, name: str, tensor: Tensor) -> None:
        if name in STATISTICS:
            key = name == "running_var", tensor.dtype
            self.statistics.setdefault(key, []).append(tensor.reshape(-1))
        elif name in SECOND_MOMENTS:
            self.moments.append(tensor)
        else:
            self.rest.setdefault(tensor.dtype, []).append(tensor)

    def verdict(self) -> Tensor:
        """Return one boolean on the device; reading it is the only wait."""
        verdicts = []
        for (is_variance, _), tensors in self.statistics.items():
            low, high = torch.aminmax(torch.cat(tensors))
            verdicts.append(low >= 0 if is_variance else torch.isfinite(low))
            verdicts.append(torch.isfinite(high))
        for tensor in self.moments:
            low, high = torch.aminmax(tensor)
            verdicts.extend((low >= 0, torch.isfinite(high)))
        verdicts.extend(torch.isfinite(_reduced(tensors)).all() for tensors in self.rest.values())
        return torch.stack(verdicts).all()


def _reduced(tensors: list[Tensor]) -> Tensor:
    """Reduce tensors of one type to a number each, which is not finite if any element is not.

    On a CPU a sum is as fast as memory; it may overflow on finite elements, which costs a closer look and no more.
    Elsewhere one launch for all tensors counts, and the largest magnitude cannot overflow.
    """
    if tensors[0].device.type == "cpu":
        wide = torch.promote_types(tensors[0].dtype, torch.float32)
        return torch.stack([tensor.sum(dtype=wide) for tensor in tensors])
    return torch.stack(list(torch._foreach_norm(tensors, float("inf"))))
