"""Before the first step: what in a model and its optimizer will go wrong later."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Finding
from torchmend.live.diagnosing import diagnose_live
from torchmend.live.half import types_without_eps
from torchmend.live.wrapping import Hook, Wrapping
from torchmend.rules.evidence import finding

MOST_MOMENTUM = 0.5
"""Above this running statistics are little more than those of the last batch."""


def inspect(models: Sequence[nn.Module], optimizers: Sequence[Optimizer]) -> Iterator[Finding]:
    """Find what is wrong or risky before a training begins.

    Args:
        models: Whose state and layers are looked at.
        optimizers: Whose settings are.
    """
    for model in models:
        yield from (each for each in diagnose_live(model).findings if each.severity >= Severity.WARNING)
        for name, module in model.named_modules():
            if isinstance(module, _NormBase) and module.track_running_stats:
                yield from _of_norm(name, module)
    for optimizer in optimizers:
        yield from _of_optimizer(optimizer)
        yield from _of_narrow_weights(optimizer)


def _of_norm(name: str, module: _NormBase) -> Iterator[Finding]:
    if module.momentum is not None and module.momentum > MOST_MOMENTUM:
        yield _risky(f"{name}: a momentum of {module.momentum:g} makes running statistics those of the last batch")
    mean = module.running_mean
    if mean is not None and mean.dtype in (torch.float16, torch.bfloat16):
        yield _risky(f"{name}: running statistics in {str(mean.dtype).removeprefix('torch.')} overflow or stand still")
    if module.affine and module.training and not module.weight.requires_grad:
        yield _risky(f"{name}: its weights are frozen, and its statistics go on changing; put it into eval mode")


def _of_optimizer(optimizer: Optimizer) -> Iterator[Finding]:
    for group in optimizer.param_groups:
        for kind in types_without_eps(group):
            yield _risky(f"eps {group['eps']:g} is zero in {kind}: a moment of zero divides by it; use 1e-4 or more")


def _of_narrow_weights(optimizer: Optimizer) -> Iterator[Finding]:
    """Optimizers of torch itself add their updates to the weights as they are; others may keep a copy in float32."""
    if not type(optimizer).__module__.startswith("torch.optim"):
        return
    kinds = {each.dtype for group in optimizer.param_groups for each in group["params"] if each.requires_grad}
    for kind in sorted(kinds & {torch.float16, torch.bfloat16}, key=str):
        yield _risky(
            f"weights are trained in {str(kind).removeprefix('torch.')} without a copy in float32: updates much "
            "smaller than a weight are rounded away; keep weights in float32 and compute under torch.autocast"
        )


def watch_starved(
    optimizer: Optimizer, repaired: Callable[[Sequence[Finding]], None], wrapping: Wrapping, *, acts: bool
) -> None:
    """Mend Adam's state, now and after each load, where a second moment is zero beside a first moment that is not.

    So it is in a state that was kept in float16: squares below 3e-8 are zero there, and a step divides by epsilon
    alone. The first moment is set to zero as well, so that both begin anew.
    """

    def mend(optimizer: Optimizer) -> None:
        starved = _starved(optimizer)
        if starved:
            count = sum(int(mask.sum()) for _, mask in starved)
            if acts:
                for first, mask in starved:
                    first.masked_fill_(mask, 0.0)
            detail = f"{count} second moments are zero beside first moments that are not; both begin anew"
            repaired((finding(Code.MOMENT_NARROW, Severity.WARNING, detail=detail),))

    mend(optimizer)
    wrapping.hook(optimizer.register_load_state_dict_post_hook(Hook(mend)))


@torch.no_grad()
def _starved(optimizer: Optimizer) -> list[tuple[Tensor, Tensor]]:
    """Return first moments, each with a mask of where the second one is zero and it is not."""
    pairs = [(each.get("exp_avg"), each.get("exp_avg_sq")) for each in optimizer.state.values()]
    masks = [
        (first, (second == 0) & (first != 0))
        for first, second in pairs
        if isinstance(first, Tensor) and isinstance(second, Tensor) and first.shape == second.shape
        and type(first) is Tensor and first.is_floating_point() and torch.finfo(second.dtype).bits >= 32
    ]  # fmt: skip
    return [(first, mask) for first, mask in masks if bool(mask.any())]


def watch_loads(optimizer: Optimizer, tell: Callable[[Sequence[Finding]], None], wrapping: Wrapping) -> None:
    """Have it told when an optimizer's state is loaded into narrower moments than were saved.

    `Optimizer.load_state_dict` casts moments to the type of their parameters: 1e-9 becomes 0 in float16.
    """

    def before_load(optimizer: Optimizer, state: dict[str, Any]) -> None:
        tell(tuple(_narrowed(optimizer, state)))

    wrapping.hook(optimizer.register_load_state_dict_pre_hook(Hook(before_load)))


def _narrowed(optimizer: Optimizer, state: dict[str, Any]) -> Iterator[Finding]:
    keys = [key for group in state["param_groups"] for key in group["params"]]
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    narrowed = {
        (str(moment.dtype).removeprefix("torch."), str(parameter.dtype).removeprefix("torch."))
        for key, parameter in zip(keys, parameters, strict=False)
        for name, moment in state["state"].get(key, {}).items()
        if name != "step" and isinstance(moment, torch.Tensor) and moment.is_floating_point()
        and parameter.is_floating_point() and moment.element_size() > parameter.element_size()
    }  # fmt: skip
    for wide, narrow in sorted(narrowed):
        yield _risky(
            f"moments saved in {wide} become {narrow}: load_state_dict casts them to their parameters' type, and small "
            "ones become zero; keep the parameters in the type in which they were trained"
        )


def _risky(detail: str) -> Finding:
    return finding(Code.RISKY_SETUP, Severity.WARNING, detail=detail)
