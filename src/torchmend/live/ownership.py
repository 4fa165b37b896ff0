"""Which modules' buffers belong to which optimizer: those whose parameters it updates, or that lie nearest to them."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Named = tuple[str, nn.Module]


def plain(name: str) -> str:
    """Return a module's or tensor's name without the wrappers that DDP and compile put around the model."""
    return name.replace("_orig_mod.", "").removeprefix("module.").removeprefix("_orig_mod")


def inner_model(model: nn.Module) -> nn.Module:
    """Return the model inside DDP's and `torch.compile`'s wrappers; else itself."""
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return inner_model(model.module)
    return inner_model(model._orig_mod) if is_compiled(model) else model  # type: ignore[arg-type]


def averaged_model(average: Any) -> nn.Module:
    """Return the model inside `AveragedModel` and its like, or an empty one where there is none."""
    inner = (getattr(average, name, None) for name in ("module", "ema", "ema_model"))
    found = next((each for each in inner if isinstance(each, nn.Module)), average)
    return inner_model(found) if isinstance(found, nn.Module) else nn.Module()


def is_compiled(module: nn.Module) -> bool:
    """Return whether a module is what `torch.compile` returned."""
    return type(module).__name__ == "OptimizedModule"


def may_be_hooked(models: Sequence[nn.Module]) -> set[nn.Module]:
    """Return the modules on which hooks are called: a compiled graph holds none of those inside it."""
    inside = {
        inner
        for model in models
        for module in model.modules()
        if is_compiled(module)
        for inner in module.modules()
        if inner is not module
    }
    return {module for model in models for module in model.modules()} - inside


def is_traced() -> bool:
    """Return whether a call is traced, exported or transformed by torch.func: values cannot be read or kept then."""
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """Return an optimizer's parameters in the order of its groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def announcing_parameters(models: Sequence[nn.Module], optimizer: Optimizer) -> list[Tensor]:
    """Return parameters of which at least one gets a gradient in every backward pass that reaches the optimizer's.

    One for each module is enough, for a module's parameters get theirs together; a hook on each of them would cost a
    call each. Those that belong to no module are all returned.
    """
    own = {each for each in parameters_of(optimizer) if each.requires_grad}
    found: list[Tensor] = []
    for model in models:
        for module in model.modules():
            of_module = [each for each in module._parameters.values() if each is not None and each in own]
            found += of_module[:1]
            own.difference_update(of_module)
    return [*found, *own]


def names_of(models: Sequence[nn.Module], optimizer: Optimizer) -> dict[Tensor, str]:
    """Name an optimizer's parameters as their models do; those of no model by their number."""
    known: dict[Tensor, str] = {
        parameter: plain(name) for model in models for name, parameter in model.named_parameters()
    }
    return {each: known.get(each, f"parameter {at}") for at, each in enumerate(parameters_of(optimizer))}


def owned_modules(models: Sequence[nn.Module], optimizers: Sequence[Optimizer]) -> list[list[Named]]:
    """Divide all modules that have buffers or extra state among the optimizers.

    A module goes to the optimizer that updates most of its own parameters. One without parameters of its own (a
    normalisation layer without affine weights, a frozen backbone) goes where most parameters of the nearest module
    around it go, and to the first optimizer if there are none at all.
    """
    owner = {id(p): at for at, optimizer in enumerate(optimizers) for p in parameters_of(optimizer)}
    owned: list[list[Named]] = [[] for _ in optimizers]
    seen: set[int] = set()
    for model in models:
        modules = dict(model.named_modules())
        votes = {name: _votes(module, owner, len(optimizers)) for name, module in modules.items()}
        for name, module in modules.items():
            if id(module) not in seen:
                seen.add(id(module))
                owned[_elected(name, votes)].append((plain(name), module))
    return owned


def _votes(module: nn.Module, owner: dict[int, int], count: int) -> list[int]:
    votes = [0] * count
    for parameter in module.parameters():
        if id(parameter) in owner:
            votes[owner[id(parameter)]] += 1
    return votes


def _elected(name: str, votes: dict[str, list[int]]) -> int:
    for around in _upwards(name):
        if any(votes[around]):
            return votes[around].index(max(votes[around]))
    return 0


def _upwards(name: str) -> Iterable[str]:
    while name:
        yield name
        name = name.rpartition(".")[0]
    yield ""
