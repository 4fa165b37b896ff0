"""What models are called with in a step, kept by reference until its verdict, so that it can be run again."""

import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from torchmend.live.forensics.batches import reachable
from torchmend.live.forensics.probing import is_damaged
from torchmend.live.ownership import inner_model, is_traced
from torchmend.live.rng import RngState
from torchmend.live.wrapping import Hook, Wrapping

MOST_CALLS = 16
"""Calls of one step that are kept; of more, the last."""

MOST_OUTPUT_BYTES = 32 << 20
"""Of a call's outputs, which are kept with their gradients until the verdict. Larger ones would be missed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Autocast:
    """Automatic mixed precision, as it was set.

    Args:
        device: A device type.
        dtype: That operations ran in; None where it was off.
        caches: Whether casts of weights were kept.
    """

    device: str
    dtype: torch.dtype | None = None
    caches: bool = True

    @classmethod
    def now(cls, device: str) -> "Autocast":
        """Return what is set for a device type."""
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return cls(device=device, dtype=dtype, caches=torch.is_autocast_cache_enabled())

    def again(self) -> AbstractContextManager[Any]:
        """Set it like this for a while; where it was off, nothing is touched."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device, self.dtype, cache_enabled=self.caches)


@dataclass(slots=True, kw_only=True, eq=False, weakref_slot=True)
class Call:
    """One call of a module in a step.

    Args:
        name: The module's name in its model; empty for the model itself.
        module: It, without wrappers.
        leaves: Arguments and keywords, taken apart; tensors share memory with what was passed, without its graph.
        spec: How they are put together; of what holds no containers how many arguments, and the keywords.
        with_gradients: Of the tensors among them, in order: whether gradients of it were taken.
        versions: Of the same: torch's counter of writes.
        autocast: As it was.
        rng: Before the call.
        out_gradients: Gradients of those outputs that had any, by their number, as the backward pass brought them.
        outputs: How many outputs had gradients taken.
        kept: Those outputs, without their graph, where they were not too large.
    """

    name: str
    module: nn.Module
    leaves: list[Any]
    spec: "TreeSpec | _Flat"
    with_gradients: tuple[bool, ...]
    versions: tuple[int, ...]
    autocast: Autocast
    rng: RngState
    out_gradients: dict[int, Tensor] = field(default_factory=dict)
    outputs: int = 0
    kept: list[Tensor] = field(default_factory=list)

    @property
    def inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments and keywords."""
        if isinstance(self.spec, _Flat):
            count = self.spec.arguments
            return tuple(self.leaves[:count]), dict(zip(self.spec.keywords, self.leaves[count:], strict=True))
        found: tuple[tuple[Any, ...], dict[str, Any]] = tree_unflatten(self.leaves, self.spec)
        return found

    def with_inputs(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> "Call":
        """Return the same call with other inputs."""
        leaves, spec = taken_apart(arguments, keywords)
        return replace(self, leaves=leaves, spec=spec)

    @property
    def has_damaged_input(self) -> bool:
        """Whether an input of which gradients are taken, so that other code made it, is not finite."""
        return any(
            flag and is_damaged(each) for each, flag in zip(_tensors(self.leaves), self.with_gradients, strict=False)
        )

    @property
    def is_intact(self) -> bool:
        """Whether nothing was written over the inputs since."""
        return self.versions == tuple(map(version_of, _tensors(self.leaves)))


@dataclass(frozen=True, slots=True)
class _Flat:
    """How inputs without containers are put together: so many arguments, then those with keywords."""

    arguments: int
    keywords: tuple[str, ...]


_SIMPLE = (Tensor, bool, int, float, str, type(None))


def taken_apart(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> "tuple[list[Any], TreeSpec | _Flat]":
    """Take inputs apart; most are simple, and torch's trees cost each step."""
    leaves = [*arguments, *keywords.values()]
    if all(isinstance(each, _SIMPLE) for each in leaves):
        return leaves, _Flat(len(arguments), tuple(keywords))
    return tree_flatten((arguments, keywords))


def _tensors(leaves: list[Any]) -> list[Tensor]:
    return [each for each in leaves if isinstance(each, Tensor)]


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor was written to; 0 where nobody counts."""
    return 0 if tensor.is_inference() else tensor._version


class Recorder:
    """Keeps what the models were called with since the last verdict.

    A model that is not called itself (`model.encode(x)`) has its children watched from the next step on.

    Args:
        models: As they are trained.
        wants_gradients: Whether gradients of outputs are kept.

    Attributes:
        batch: What the loss was made of, as the guard was told.
        was_judged: Whether a verdict has come since the last call, so that the call is forgotten.
    """

    def __init__(self, models: Sequence[nn.Module], *, wants_gradients: bool = True) -> None:
        self.batch: Any = None
        self.was_judged = False
        self._models = models
        self._wants_gradients = wants_gradients
        self._calls: list[Call] = []
        self._open: list[nn.Module] = []
        self._was_called = False
        self._wrapping = Wrapping()
        self._devices = list({p.device for model in models for p in model.parameters()})

    def attach(self) -> None:
        """Hook the models."""
        for model in self._models:
            self._watch("", model)

    def detach(self) -> None:
        """Take all hooks away, and forget."""
        self._wrapping.undo()
        self.forget()

    @property
    def calls(self) -> list[Call]:
        """What was called since the last verdict, oldest first."""
        return list(self._calls)

    def tensors(self) -> list[Tensor]:
        """Return what would be run again: the batch, and what the models were called with."""
        return reachable([self.batch, *(call.leaves for call in self._calls)])

    def end(self) -> None:
        """Take note of a verdict: keep nothing of what came before, and see to it that the next calls are seen."""
        if not (self._calls or self._was_called):
            self._watch_children()
        self.was_judged |= bool(self._calls)
        self.forget()

    def forget(self) -> None:
        """Keep nothing of what came so far."""
        self._calls, self._open, self.batch = [], [], None

    def _watch_children(self) -> None:
        self._was_called = True
        for model in self._models:
            for name, child in inner_model(model).named_children():
                self._watch(name, child)

    def _watch(self, name: str, module: nn.Module) -> None:
        def before(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            self._before(name, module, arguments, keywords)

        self._wrapping.hook(module.register_forward_pre_hook(Hook(before), with_kwargs=True, prepend=True))
        self._wrapping.hook(module.register_forward_hook(Hook(self._after), always_call=True))

    def _before(self, name: str, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            return  # what is compiled in place is not seen: a break in its graph would cost every step
        if self._open:  # a model may call itself, without gradients too
            self._open.append(module)
            return
        if not module.training or not torch.is_grad_enabled() or is_traced():
            return
        self._open.append(module)
        leaves, spec = taken_apart(arguments, keywords)
        tensors = _tensors(leaves)
        device = next((each.device.type for each in tensors), self._devices[0].type if self._devices else "cpu")
        call = Call(
            name=name,
            module=inner_model(module),
            leaves=[each.detach() if isinstance(each, Tensor) else each for each in leaves],
            spec=spec,
            with_gradients=tuple(each.requires_grad for each in tensors),
            versions=tuple(map(version_of, tensors)),
            autocast=Autocast.now(device),
            rng=RngState.now(self._devices, exact=False),
        )
        self._was_called, self.was_judged = True, False
        self._calls = [*self._calls[1 - MOST_CALLS :], call]

    def _after(self, module: nn.Module, _: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or not self._open or self._open[-1] is not module:
            return
        self._open.pop()
        if self._open or not self._wants_gradients or not self._calls:
            return
        call = self._calls[-1]
        found = [each for each in reachable(output) if each.requires_grad]
        call.outputs = len(found)
        if sum(each.nbytes for each in found) > MOST_OUTPUT_BYTES:
            return
        call.kept = [each.detach() for each in found]
        for at, each in enumerate(found):
            each.register_hook(Hook(_keeping(weakref.ref(call), at)))  # type: ignore[no-untyped-call]


def _keeping(call: "weakref.ref[Call]", at: int) -> Callable[[Tensor], None]:
    def keep(gradient: Tensor) -> None:
        kept = call()
        if kept is not None:
            kept.out_gradients[at] = gradient.detach()

    return keep
