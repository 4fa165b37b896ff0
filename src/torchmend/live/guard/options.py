"""What a guard is given: options checked by name, models and optimizers that it can guard."""

import math
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from torchmend.facts.errors import UserError
from torchmend.live.forensics.capsules import Capsules
from torchmend.live.forensics.rerun import Loss
from torchmend.live.guard.clipping import By, Clip
from torchmend.live.guard.decisions import Decision
from torchmend.live.guard.policy import Policy
from torchmend.live.guard.ring import Ring
from torchmend.live.guard.sensing.catalogue import ALL, Sensor, chosen
from torchmend.live.ownership import is_compiled

_UNSUPPORTED = ("FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine")

Callback = Callable[[Decision], Decision | None]
"""Told every decision but PROCEED; what it returns, if anything, is done instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardOptions:
    """What a guard does besides refusing steps.

    Args:
        policy: How to decide.
        clip: A limit on gradients, applied after the verdict; None leaves clipping to the loop.
        ring: How snapshots to go back to are kept; None keeps none, and weights that are damaged stop the run. The
            default keeps two on the host, if they take no more than 2 GiB.
        sensors: Which look, as objects of `Sensor` or by their names; all by default.
        sample_every: Steps between two looks of sampled sensors.
        check_every: Steps between two checks of weights, statistics and optimizer state; 0 never checks, and takes no
            snapshots.
        reservoir: How many batches of the last healthy steps are kept, by reference, of models that keep running
            statistics: damaged ones are measured again on them before an evaluation. 0 keeps none, and so does `lazy`,
            which knows too late which steps were healthy. They take up to 256 MiB of each model's device.
        observe_only: Decide and report, and change nothing.
        lazy: Whether the verdict stays on the device, so that the host never waits for it; needs fused Adam, AdamW or
            SGD. See "Without any wait" in the guide for what it cannot do.
        hold_scheduler: Whether a scheduler that steps with the optimizer stays where it is when a step is refused.
        drop_micro_batches: Whether, under gradient accumulation, one bad micro-batch is dropped alone and the others
            count for it; costs a copy of the gradients. The loss of each must be divided by how many there are.
        safe_optimizers: Whether optimizers that are not torch's own do nothing at all without gradients; else they are
            put back after a refused step.
        localise: Whether the batch of a step that is not finite is run once more, under probes, to say where it began;
            not with `lazy`, which knows too late.
        loss: A function of the model (a list of them, if the guard was given several) and of a batch, that returns the
            loss. With it, and with `observe(loss, batch)`, the loss code is localised as well, to the operation.
        capsules: Where failing batches are kept with all that it takes to replay them: a folder, or `Capsules`. None
            keeps none.
        on_decision: Told every decision but to proceed; may return another.
        log: A file that gets a line of JSON for each decision; appended to.
        writer: A TensorBoard `SummaryWriter`.
    """

    policy: Policy = Policy()
    clip: Clip | None = None
    ring: Ring | None = Ring(most_bytes=2 << 30)
    sensors: Collection[Sensor | str] = ALL
    sample_every: int = 50
    check_every: int = 100
    reservoir: int = 4
    observe_only: bool = False
    lazy: bool = False
    hold_scheduler: bool = True
    drop_micro_batches: bool = False
    safe_optimizers: bool = False
    localise: bool = True
    loss: Loss | None = None
    capsules: Capsules | str | os.PathLike[str] | None = None
    on_decision: Callback | None = None
    log: str | os.PathLike[str] | None = None
    writer: Any = None

    def __post_init__(self) -> None:
        """Raise UserError for values without a meaning."""
        object.__setattr__(self, "sensors", chosen(self.sensors))
        if isinstance(self.capsules, str | os.PathLike):
            object.__setattr__(self, "capsules", Capsules(folder=self.capsules))
        for name, least in (("check_every", 0), ("sample_every", 1), ("reservoir", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be {least} or more.")
        if self.lazy:
            self._refuse_what_waits()

    def _refuse_what_waits(self) -> None:
        percentile = self.clip is not None and self.clip.by is By.PERCENTILE
        waits = {"drop_micro_batches": self.drop_micro_batches, "on_decision": self.on_decision is not None}
        for name, is_set in {**waits, "clip by percentile": percentile}.items():
            if is_set:
                raise UserError(
                    f"{name} has to know the verdict at once, and lazy=True never waits for it. Leave one out."
                )


def policy_of(options: GuardOptions) -> Policy:
    """Return the policy, blind to what no sensor looks at."""
    policy = options.policy
    if Sensor.SPIKES not in options.sensors:
        policy = replace(policy, spike=math.inf, variance_jump=math.inf, update_ratio=math.inf)
    if Sensor.SCALER not in options.sensors:
        policy = replace(policy, most_back_offs=sys.maxsize, most_in_a_row=sys.maxsize)
    return policy


def options_of(given: dict[str, Any]) -> GuardOptions:
    """Make options from keywords; raise UserError for one that there is not, with those that there are."""
    legal = [each.name for each in fields(GuardOptions)]
    unknown = [name for name in given if name not in legal]
    if unknown:
        raise UserError(f"A guard has no option {unknown[0]!r}. The options are {', '.join(legal)}.")
    return GuardOptions(**given)


def listed(given: Any, kind: type, what: str) -> list[Any]:
    """Return one object or several as a list; raise UserError if one is of another kind."""
    found = as_list(given)
    if not found or not all(isinstance(each, kind) for each in found):
        names = ", ".join(type(each).__name__ for each in found) or "nothing"
        raise UserError(f"Got {names} as {what}. Pass a {kind.__module__}.{kind.__name__}, or a list of them.")
    return found


def as_list(given: Any) -> list[Any]:
    """Return one object or several as a list; none as an empty one."""
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]


def one_element(loss: Any) -> Tensor:
    """Return a loss; raise UserError if it is not a tensor of one element."""
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    given = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
    raise UserError(f"The loss is {given}. Pass the tensor of one element that backward is called on.")


def refuse_unsupported(model: nn.Module) -> None:
    """Raise UserError for a model that hooks would not see, or whose step could not be undone."""
    names = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    found = next((name for name in _UNSUPPORTED if name in names), None)
    if found is not None:
        raise UserError(f"The guard does not support {found} yet: its parameters are not where a step could be undone.")
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise UserError(
            "This model is a ScriptModule, whose buffers the guard cannot put back. Train the module it was made from."
        )
    if any(_is_compiled_in_place(module) and any(True for _ in module.buffers()) for module in model.modules()):
        raise UserError(
            "This module was compiled in place (module.compile()), so hooks added now would never be called. "
            "Make the guard first, or pass the wrapper that torch.compile(module) returns."
        )


def _is_compiled_in_place(module: nn.Module) -> bool:
    if is_compiled(module):
        return False
    forward = vars(module).get("forward")
    return getattr(module, "_compiled_call_impl", None) is not None or hasattr(forward, "_torchdynamo_orig_callable")
