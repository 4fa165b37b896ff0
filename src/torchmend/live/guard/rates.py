"""Learning rates made smaller, where optimizers and their schedulers keep them."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

_OF_GROUPS = ("lr", "initial_lr", "max_lr", "min_lr")
"""What groups hold: the rate, and what schedulers work out the next one from."""

_OF_SCHEDULERS = ("base_lrs", "max_lrs", "_last_lr")


def lowest(optimizer: Optimizer) -> float:
    """Return the lowest learning rate that is a plain number, or 0.0 if none is below: a tensor may lie on a device."""
    rates = [group.get("lr") for group in optimizer.param_groups]
    return min([0.0, *(float(rate) for rate in rates if isinstance(rate, float | int))])


def lower(optimizers: Iterable[Optimizer], schedulers: Iterable[Any], factor: float) -> None:
    """Multiply every learning rate by a factor, so that schedules go on as they were, in proportion.

    Args:
        optimizers: Whose groups are changed.
        schedulers: Those that follow their own schedule; schedulers within schedulers are found.
        factor: Above 0 and at most 1.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for name in _OF_GROUPS:
                if isinstance(group.get(name), Tensor):
                    group[name].mul_(factor)
                elif isinstance(group.get(name), float | int):
                    group[name] *= factor
    for scheduler in _all(schedulers):
        for name in _OF_SCHEDULERS:
            if isinstance(rates := getattr(scheduler, name, None), list):
                setattr(scheduler, name, [rate * factor for rate in rates])


def _all(schedulers: Iterable[Any]) -> Iterable[Any]:
    for scheduler in schedulers:
        yield scheduler
        inner = getattr(scheduler, "_schedulers", ())
        yield from _all(inner if isinstance(inner, list | tuple) else ())
