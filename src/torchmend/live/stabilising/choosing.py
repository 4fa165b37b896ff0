"""Which modules are meant by names, patterns and types; and which are likely to overflow, by their structure alone."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from torch import nn

from torchmend.facts.errors import UserError
from torchmend.live.ownership import inner_model, plain

Wanted = str | type[nn.Module]
"""A module's name, a pattern with `*`, `?` or `[...]`, or a class."""

MANY_INPUTS = 4096
"""A linear layer of as many inputs sums so many products that modest ones may pass 65504."""


def inside(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers of DDP and `torch.compile`.

    Raises:
        TypeError: It is no module.
        UserError: It is TorchScript.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"Got a {type(model).__name__} as model. Pass a torch.nn.Module.")
    inner = inner_model(model)
    if isinstance(inner, torch.jit.ScriptModule):
        raise UserError(
            f"{type(inner).__name__} is TorchScript, which runs its own code. "
            "Stabilise the module before it is scripted or traced."
        )
    return inner


def place_of(model: nn.Module, name: str) -> str:
    """Return how a module is called in reports: the root by its class."""
    return name or type(model).__name__


def find(model: nn.Module, wanted: Wanted | Iterable[Wanted]) -> dict[str, nn.Module]:
    """Find modules by name, pattern or class; those inside another one that is found are left out.

    Args:
        model: Without wrappers.
        wanted: What to find; the model itself is called by the name of its class, or "".

    Returns:
        Modules by name, in the model's order.

    Raises:
        UserError: Nothing is called so, or a module that is found is never called by itself.
    """
    each_wanted = [wanted] if isinstance(wanted, str | type) else list(wanted)
    modules = {plain(name): module for name, module in model.named_modules(remove_duplicate=False)}
    found = {name for each in each_wanted for name in _matching(model, modules, each)}
    chosen: dict[nn.Module, str] = {}
    for name, module in modules.items():
        if name in found:
            chosen.setdefault(module, name)
    named = {name: module for module, name in chosen.items()}
    for name in named:
        around = modules.get(name.rpartition(".")[0]) if name else None
        if isinstance(around, nn.MultiheadAttention):
            raise UserError(
                f"{name} is never called: nn.MultiheadAttention uses its weights. "
                f"Name {name.rpartition('.')[0]} instead."
            )
    return outermost(named)


def outermost(named: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Leave out modules inside others: autocast is off there already."""
    within = {inner for module in named.values() for inner in module.modules() if inner is not module}
    return {name: module for name, module in named.items() if module not in within}


def _matching(model: nn.Module, modules: Mapping[str, nn.Module], wanted: Wanted) -> list[str]:
    if isinstance(wanted, type):
        found = [name for name, module in modules.items() if isinstance(module, wanted)]
        if not found:
            raise UserError(
                f"There is no {wanted.__name__} in the model. Pass a class that it has, or a module's name."
            )
        return found
    name = "" if wanted == type(model).__name__ and wanted not in modules else plain(wanted)
    if name in modules:
        return [name]
    found = [each for each in modules if fnmatchcase(each, wanted)]
    if not found:
        legal = [each for each in modules if each]
        near = get_close_matches(wanted, legal, n=3, cutoff=0.3) or legal[:3]
        close = (
            f"Close ones: {', '.join(near)}" if near else f"It has none inside; its own name is {type(model).__name__}"
        )
        raise UserError(f"No module is called {wanted!r}. {close}.")
    return found


def suspects(model: nn.Module) -> dict[str, str]:
    """Return modules that are likely to overflow, judged without running them, and why.

    What a `forward` does is seen by the names in its code. What is hidden in functions that it calls is not, and how
    large values become is not either.

    Args:
        model: Without wrappers.
    """
    return {plain(name): why for name, module in model.named_modules() for why in _suspicions(module)}


def _suspicions(module: nn.Module) -> Iterator[str]:
    own = not type(module).__module__.startswith("torch.")
    kind = type(module).__name__.lower()
    names = _names_in_code(module) if own else ()
    if any(name.lstrip("ir").startswith(("fft", "hfft")) for name in names):
        yield "its code takes a Fourier transform, whose first coefficient is a sum over all points"
    elif own and "norm" in kind:
        yield "a normalisation of its own squares what it gets"
    elif isinstance(module, nn.MultiheadAttention) or (own and ("attention" in kind or "attn" in kind)):
        yield "attention multiplies queries by keys before its softmax"
    elif isinstance(module, nn.Linear) and module.in_features >= MANY_INPUTS:
        yield f"it sums {module.in_features} products"


def _names_in_code(module: nn.Module) -> Sequence[str]:
    code = getattr(type(module).forward, "__code__", None)
    return () if code is None else code.co_names
