"""The optimizer and its learning rate."""

import math

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from wavessm_x.config import ConfigError

WARMUP = 1000
"""The most steps that the learning rate rises for."""

FIRST = 0.01
"""The share of the learning rate that the first step has."""

LAST = 1e-6
"""The learning rate of the last step."""

UNDECAYED = ("A_log", "D")
"""Parameters of state-space scans that are no weights: decay would change how long they remember."""

UNDECAYED_PARTS = ("bias", "norm", "scale")
"""What the last part of a parameter's name may contain to be left without decay."""


def make_optimizer(model: nn.Module, lr: float, weight_decay: float) -> AdamW:
    """Return AdamW over the trainable parameters of a model, in two groups: with decay, and without.

    Without are parameters of fewer than two dimensions, all of normalisation layers, and biases, norms, scales, A_log
    and D by name.

    Args:
        model: What is trained. A parameter that is in it twice is given once.
        lr: The highest learning rate.
        weight_decay: Of the first group.

    Raises:
        ConfigError: Nothing in the model is trainable.
    """
    normalising = {id(each) for module in model.modules() if _is_norm(module) for each in module.parameters()}
    trainable = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    if not trainable:
        raise ConfigError("The model has no trainable parameters; nothing can be optimised.")
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in trainable:
        spared = parameter.ndim < 2 or id(parameter) in normalising or _is_spared(name.rpartition(".")[2])
        (plain if spared else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return AdamW([group for group in groups if group["params"]], lr=lr)


def _is_spared(name: str) -> bool:
    return name in UNDECAYED or any(part in name.lower() for part in UNDECAYED_PARTS)


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__ and not list(module.children())


def make_scheduler(optimizer: AdamW, num_iter: int) -> LambdaLR:
    """Return the learning rate's schedule, stepped once an iteration: a linear rise, then half a cosine.

    It rises from 0.01 of the optimizer's rate over min(1000, num_iter // 30) steps, and falls to 1e-6 at the last one.
    State dicts of it and of the optimizer, loaded into new ones, go on exactly; the highest rate is then that of the
    state, and the length is `num_iter` as given here, so that a training can be made longer.

    Args:
        optimizer: At its highest learning rate.
        num_iter: Steps in all.
    """
    return LambdaLR(optimizer, lambda step: share_at(step, num_iter, optimizer.param_groups[0]["initial_lr"]))


def share_at(step: int, num_iter: int, lr: float) -> float:
    """Return the share of the highest learning rate `lr` that a step has, counted from 0; above 0, at most 1."""
    warmup = min(WARMUP, num_iter // 30)
    if step < warmup:
        return FIRST + (1 - FIRST) * step / warmup
    done = min((step - warmup) / max(num_iter - 1 - warmup, 1), 1.0)
    lowest = min(LAST / lr, 1.0)
    return lowest + (1 - lowest) * (1 + math.cos(math.pi * done)) / 2
