"""A module that computes in float32, whatever autocast is around it."""

import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from torchmend.live.ownership import plain
from torchmend.live.wrapping import Hook, Wrapping

HALVES = (torch.float16, torch.bfloat16)

_WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.complex32: torch.complex64}

_wide: weakref.WeakSet[nn.Module] = weakref.WeakSet()


class Wide:
    """Has one module compute in float32: autocast is off inside it, and inputs in half precision are cast.

    Its `forward` is overridden on this object alone, so that its parameters, buffers, hooks and name stay as they are;
    copies and pickles compute as the module did before. Weights in half precision are cast for each call, and get
    their gradients through the cast.

    Inside autocast the output stays in float32: what comes next casts what it wants, and what is beyond float16 stays
    finite. Where autocast is off the next module wants the type of its weights, and gets it: the output goes back to
    the type of the input.

    Args:
        module: What to change; one of which `why_not` says nothing.
        cast_back: Cast the output back inside autocast as well, to autocast's type.
        may_be_fused: Whether it is inside an nn.TransformerEncoderLayer, whose fast path for evaluation leaves it out.

    Attributes:
        paused: Whether the module computes as it did before.
    """

    def __init__(self, module: nn.Module, *, cast_back: bool = False, may_be_fused: bool = False) -> None:
        self.paused = self._removed = False
        self._module, self._cast_back = module, cast_back
        self._narrow = _narrow_weights(module)
        self._wrapping = Wrapping()
        self._wrapping.override(module, forward=self._forward)
        if may_be_fused:  # nn.TransformerEncoderLayer calls the modules that it is made of only if one has a hook
            self._wrapping.hook(module.register_forward_pre_hook(Hook(_nothing)))
        _wide.add(module)

    def remove(self) -> None:
        """Have the module compute as before, also if somebody else has changed its class since then."""
        if not self._removed:
            _wide.discard(self._module)
        self._removed = True
        self._wrapping.undo()

    def _forward(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        if self.paused or self._removed:
            return original(*arguments, **keywords)
        kind = _device_type(self._module, arguments, keywords)
        if not torch.amp.is_autocast_available(kind):
            return original(*arguments, **keywords)
        back = self._back(kind, arguments, keywords)
        arguments = tuple(_each(widened, value) for value in arguments)
        keywords = {name: _each(widened, value) for name, value in keywords.items()}
        with torch.autocast(kind, enabled=False), _wide_weights(self._narrow) if self._narrow else nullcontext():
            output = original(*arguments, **keywords)
        return output if back is None else _each(lambda tensor: _narrowed(tensor, back), output)

    def _back(self, kind: str, arguments: Any, keywords: Any) -> torch.dtype | None:
        """Return the type that outputs go back to; None if they stay in float32."""
        if torch.is_autocast_enabled(kind):
            return torch.get_autocast_dtype(kind) if self._cast_back else None
        return next((each.dtype for each in _tensors(arguments, keywords) if each.dtype in HALVES), None)


def _device_type(module: nn.Module, arguments: Any, keywords: Any) -> str:
    for each in itertools.chain(module.parameters(), _tensors(arguments, keywords)):
        if each.is_floating_point():
            return each.device.type
    return "cpu"


def _tensors(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Iterator[Tensor]:
    for value in itertools.chain(arguments, keywords.values()):
        if isinstance(value, Tensor):
            yield value
        else:
            yield from (each for each in tree_leaves(value) if isinstance(each, Tensor))


def _each(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Call a function with each tensor in a value; a tensor by itself, the usual case, takes no walk."""
    return function(value) if isinstance(value, Tensor) else tree_map_only(Tensor, function, value)


def covered_names(model: nn.Module) -> set[str]:
    """Return the names of all modules that compute in float32 already, or are inside one that does."""
    inner = {each for module in model.modules() if module in _wide for each in module.modules()}
    return {plain(name) for name, module in model.named_modules(remove_duplicate=False) if module in inner}


def widened(tensor: Tensor) -> Tensor:
    """Return a tensor in half precision in float32, or complex64; others as they are."""
    wider = _WIDER.get(tensor.dtype)
    return tensor if wider is None else tensor.to(wider)


def why_not(module: nn.Module) -> str:
    """Say why a module cannot be put into float32 from outside; empty if it can."""
    if isinstance(module, torch.jit.ScriptModule):
        return "it is TorchScript, which runs its own code. Stabilise the module before it is scripted or traced."
    if "forward" in module.__dict__:
        return "its forward was replaced on the object by something else. Stabilise it before that is done."
    for name, buffer in module.named_buffers():
        if buffer.dtype in HALVES:
            kind = str(buffer.dtype).removeprefix("torch.")
            return f"its buffer {name} is kept in {kind}. Call .float() on it, which changes what it saves as well."
    if any(isinstance(each, nn.RNNBase) for each in module.modules()) and _narrow_weights(module):
        return "it keeps weights in half precision where a recurrent layer needs them as they are. Call .float() on it."
    return ""


def _narrow_weights(module: nn.Module) -> list[tuple[nn.Module, str]]:
    return [
        (owner, key)
        for owner in module.modules()
        for key, parameter in owner._parameters.items()
        if parameter is not None and parameter.dtype in HALVES
    ]


@contextmanager
def _wide_weights(narrow: list[tuple[nn.Module, str]]) -> Iterator[None]:
    """Put weights in float32 in place of narrow ones while this lasts."""
    kept = [(owner, key, owner._parameters[key]) for owner, key in narrow]
    try:
        for owner, key, parameter in kept:
            owner._parameters[key] = widened(parameter)  # type: ignore[arg-type, assignment]  # a tensor will do
        yield
    finally:
        for owner, key, parameter in kept:
            owner._parameters[key] = parameter


def _nothing(*_: object) -> None:
    """Do nothing: it is there to be seen."""


def _narrowed(tensor: Tensor, kind: torch.dtype) -> Tensor:
    return tensor.to(kind) if tensor.dtype is torch.float32 else tensor
