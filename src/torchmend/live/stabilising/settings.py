"""Settings of normalisation layers and optimizers under which nothing is divided by almost zero."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import nn
from torch.optim import Optimizer

from torchmend.live.compat import configure_bn_for_stability, normalises_by_statistics
from torchmend.live.half import SAFE_EPS, types_without_eps
from torchmend.live.ownership import plain
from torchmend.live.stabilising.changes import Change, Kind, Stabilised
from torchmend.live.stabilising.choosing import inside, place_of


def steady_norms(model: nn.Module, momentum: float | None = 0.01, eps: float = 1e-3) -> Stabilised:
    """Set momentum and eps of every BatchNorm, as `configure_bn_for_stability` does, in a way that can be undone.

    Args:
        model: What to change; wrappers of DDP and `torch.compile` may be around it.
        momentum: Share of each batch in the running statistics, from 0 to 1; None averages all batches alike.
        eps: Added to variances; above 0.

    Raises:
        UserError: A value is out of range, or the model is TorchScript.
    """
    inner = inside(model)
    layers = [(plain(name), each) for name, each in inner.named_modules() if normalises_by_statistics(each)]
    before = [(layer.momentum, layer.eps) for _, layer in layers]
    configure_bn_for_stability(inner, momentum, eps)
    changes: list[Change] = []
    putting_back: list[Callable[[], None]] = []
    for (name, layer), was in zip(layers, before, strict=True):
        if was != (momentum, eps):
            changes.append(
                Change(
                    kind=Kind.NORM,
                    place=place_of(inner, name),
                    before=_told(*was),
                    after=_told(momentum, eps),
                    reason="one batch moves running statistics less, and no variance is too small to divide by",
                )
            )
            putting_back.append(partial(_put_norm_back, layer, (momentum, eps), was))
    return Stabilised(changes, putting_back=putting_back)


def _told(momentum: object, eps: object) -> str:
    return f"momentum {momentum}, eps {eps}"


def _put_norm_back(layer: nn.Module, ours: tuple[object, object], was: tuple[object, object]) -> None:
    if (layer.momentum, layer.eps) == ours:
        layer.momentum, layer.eps = was  # type: ignore[assignment]  # a module's own attributes


def wider_eps(optimizers: Sequence[Optimizer]) -> Stabilised:
    """Set each epsilon that the type of its parameters cannot hold to one that it can.

    Args:
        optimizers: Adam and its like; groups without epsilon stay as they are.
    """
    changes: list[Change] = []
    putting_back: list[Callable[[], None]] = []
    for optimizer in optimizers:
        for at, group in enumerate(optimizer.param_groups):
            kinds = types_without_eps(group)
            if kinds:
                was = group["eps"]
                group["eps"] = SAFE_EPS
                changes.append(
                    Change(
                        kind=Kind.EPS,
                        place=f"{type(optimizer).__name__}, group {at}",
                        before=f"eps {was:g}",
                        after=f"eps {SAFE_EPS:g}",
                        reason=f"it is zero in {', '.join(kinds)}, and a moment of zero divides by it",
                    )
                )
                putting_back.append(partial(_put_eps_back, optimizer, at, was))
    return Stabilised(changes, putting_back=putting_back)


def _put_eps_back(optimizer: Optimizer, at: int, was: float) -> None:
    if optimizer.param_groups[at]["eps"] == SAFE_EPS:
        optimizer.param_groups[at]["eps"] = was
