"""Which modules come near float16's largest number, seen in every operation of one forward pass."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchmend.live.half import LARGEST
from torchmend.live.ownership import plain
from torchmend.live.screening import STATISTICS
from torchmend.live.stabilising.running import in_half, untouched
from torchmend.live.tensors import is_plain, tensors_of

_HALVES = (torch.float16, torch.complex32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """An operation that came near the end of float16, or passed it.

    Args:
        name: The innermost module in whose own code it is; None outside the model.
        operation: What torch calls it.
        largest: The largest magnitude: of its result, or of what was cast to float16.
        is_cast: Whether it casts to float16.
    """

    name: str | None
    operation: str
    largest: float
    is_cast: bool

    def is_like(self, other: "Sighting") -> bool:
        """Return whether it is of the same operation, whatever the magnitude."""
        return (self.name, self.operation, self.is_cast) == (other.name, other.operation, other.is_cast)

    def __str__(self) -> str:
        if self.is_cast:
            return f"{self.largest:g} was cast to float16, whose largest number is {LARGEST:g}"
        return f"{self.operation} gave {self.largest:g} in float16, whose largest number is {LARGEST:g}"


def probe(model: nn.Module, run: Callable[[], object], bits: float) -> dict[str | None, Sighting]:
    """Run a model once and find what comes near float16's largest number, or passes it.

    An operation counts if its result in float16 has fewer bits of headroom than it should, and what it took has not:
    what only hands on large values does not, nor does what hides values behind -Inf. Kernels that fuse several
    operations, such as scaled dot product attention, are seen from outside only.

    Args:
        model: Whose modules; afterwards its buffers and modes, and all random generators, are as before.
        run: Runs it, in the model's own modes, without gradients, inside autocast to float16.
        bits: Of headroom, below which it counts.

    Returns:
        The worst operation of each module, by the module's name.
    """
    seen = _Operations(LARGEST / 2**bits)
    handles = []
    try:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            handles.append(module.register_forward_pre_hook(seen.entering(plain(name))))
            handles.append(module.register_forward_hook(seen.leaving, always_call=True))
        with untouched(model), _unfused(), torch.no_grad(), in_half(model, cached=False), seen:
            run()
            seen.look_at_buffers(model)
    finally:
        for handle in handles:
            handle.remove()
    return seen.worst


@contextmanager
def _unfused() -> Iterator[None]:
    """Have attention compute as in training: its fast path for evaluation is one kernel, which hides what is inside."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at each operation below autocast, where types are what they really are."""

    def __init__(self, limit: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.worst: dict[str | None, Sighting] = {}
        self._limit = limit
        self._names: list[str] = []

    def entering(self, name: str) -> Callable[..., None]:
        """Return a hook that tells whose code begins."""
        return lambda *_: self._names.append(name)

    def leaving(self, *_: Any) -> None:
        """Go back to the code of the module around it."""
        self._names.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = kwargs or {}
        changes_inputs = func._schema.is_mutable
        taken = _largest_of((args, keywords)) if changes_inputs else None
        source = _cast_from(func, args)
        wide = None if source is None else _beyond(source, self._limit)
        result = func(*args, **keywords)
        halves = [each for each in tensors_of(result) if each.dtype in _HALVES and _is_readable(each)]
        if not halves or "empty" in str(func):
            return result
        if source is not None:
            if wide is not None:
                self._note(func, wide, is_cast=True)
            return result
        given = max(map(_largest, halves))
        if given > self._limit:
            taken = _largest_of((args, keywords)) if taken is None else taken
            if taken <= self._limit or (math.isinf(given) and taken < LARGEST):
                self._note(func, given, is_cast=False)
        return result

    def look_at_buffers(self, model: nn.Module) -> None:
        """Note statistics in float16 that are near its end: kernels write them out of sight."""
        for name, module in model.named_modules():
            for key in STATISTICS:
                buffer = module._buffers.get(key)
                if buffer is None or buffer.dtype not in _HALVES or not _is_readable(buffer):
                    continue
                if _largest(buffer) > self._limit:
                    self._note_in(plain(name), f"keeping {key}", _largest(buffer))

    def _note(self, func: Any, largest: float, *, is_cast: bool) -> None:
        name = self._names[-1] if self._names else None
        self._note_in(name, func.overloadpacket.__name__.strip("_"), largest, is_cast=is_cast)

    def _note_in(self, name: str | None, operation: str, largest: float, *, is_cast: bool = False) -> None:
        if name not in self.worst or largest > self.worst[name].largest:
            self.worst[name] = Sighting(name=name, operation=operation, largest=largest, is_cast=is_cast)


def _cast_from(func: Any, args: tuple[Any, ...]) -> Tensor | None:
    """Return what an operation casts to a narrower type, if that is what it does."""
    if func is torch.ops.aten._to_copy.default:
        source = args[0]
    elif func is torch.ops.aten.copy_.default:
        source = args[1]
    else:
        return None
    return source if source.dtype not in _HALVES and _is_readable(source) else None


def _beyond(source: Tensor, limit: float) -> float | None:
    """Return the largest magnitude of what is cast, if it is beyond the limit; None for a mask.

    In a mask all that is beyond it is one negative number, such as -Inf or -1e9, in several places.
    """
    if not (source.is_floating_point() or source.is_complex()):
        return None
    largest = _largest(source)
    if largest <= limit:
        return None
    real = _real(source)
    below = real < -limit
    is_mask = not bool((real > limit).any()) and bool((real[below] == real.min()).all())
    return None if is_mask and (int(below.sum()) > 1 or largest == math.inf) else largest


def _largest_of(values: Any) -> float:
    return max(_magnitudes(values), default=0.0)


def _magnitudes(values: Any) -> Iterator[float]:
    for each in tree_leaves(values):
        if isinstance(each, Tensor):
            if (each.is_floating_point() or each.is_complex()) and _is_readable(each):
                yield _largest(each)
        elif isinstance(each, float):
            yield abs(each)


def _largest(tensor: Tensor) -> float:
    """Return the largest magnitude; NaN does not count."""
    return float(_real(tensor).abs().nan_to_num(nan=0.0, posinf=math.inf).max())


def _real(tensor: Tensor) -> Tensor:
    plain = tensor.detach()
    return torch.view_as_real(plain.resolve_conj()) if plain.is_complex() else plain


def _is_readable(tensor: Tensor) -> bool:
    return tensor.numel() > 0 and is_plain(tensor)
