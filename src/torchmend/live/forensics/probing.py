"""Probes: every operation of a forward and a backward pass is looked at, and where damage comes from is followed.

Legend: a storage is the memory that a tensor and its views share; an origin is the operation that first wrote what is
not finite into one, out of finite inputs.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from torchmend.live.forensics.places import Place, Places, node_name, numbered
from torchmend.live.ownership import plain
from torchmend.live.tensors import is_plain, tensors_of

UNINITIALISED = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_")
"""Operations that hand out memory as it is."""

MASKING = ("masked_fill", "full", "full_like", "new_full", "fill", "scalar_tensor", "lift_fresh", "constant_pad_nd")
"""Operations by which code writes Inf on purpose, as into a mask."""

OUTSIDE = "a tensor from outside"
"""Where something comes from that neither the models nor the batch hold."""

EXCHANGES = ("allreduce", "allgather", "reduce_scatter", "broadcast", "alltoall", "wait_tensor")
"""Operations whose results come from other ranks."""

_CASTS = ("_to_copy", "t", "detach", "transpose", "view", "alias")
"""Operations after which a parameter is still itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What first wrote a value that is not finite into a storage.

    Args:
        number: Of the operation, counted through; 0 for what was there before any.
        place: Where it ran; in a backward pass where its forward operation did.
        operation: Its name, as torch's operators are called ("div", "native_batch_norm"); in a backward pass that of
            the operation whose slope is worked out. Empty where torch saw none.
        dtype: Of what it wrote ("float16").
        value: "NaN", "Inf" or "-Inf".
        backward: Whether it ran in a backward pass.
        parameter: A parameter that took part, by name; empty if none did.
        source: For what was there before: "input", "parameter" or "buffer" with its name, or `OUTSIDE`.
        on_purpose: Whether it may be a mask.
    """

    number: int = 0
    place: Place = Place()
    operation: str = ""
    dtype: str = ""
    value: str = "NaN"
    backward: bool = False
    parameter: str = ""
    source: str = ""
    on_purpose: bool = False


class Probe(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at what each operation puts out, while it is entered; reads from the device each time.

    Args:
        models: To name modules, parameters and buffers by.
        inputs: Tensors that come from outside, with their names.

    Attributes:
        exchanges: Whether an operation exchanged values with other ranks.
    """

    def __init__(self, models: Sequence[nn.Module], inputs: Iterable[tuple[str, Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._thread = get_ident()  # hooks on all modules are called in others as well
        self.exchanges = False
        self._places = Places(models)
        self._sources = {
            **{_storage(each): f"input {name}" for name, each in inputs if _is_looked_at(each)},
            **{_storage(each): f"buffer {name}" for name, each in _named(models, "named_buffers")},
            **{_storage(each): f"parameter {name}" for name, each in _named(models, "named_parameters")},
        }
        self._buffers = {_storage(each) for _, each in _named(models, "named_buffers") if not is_bad(each)}
        self._parameters = {_storage(each): name for name, each in _named(models, "named_parameters")}
        self._origins: dict[int, tuple[Origin, Tensor]] = {}
        self._handles: list[Any] = []
        self._count = 0
        self._in_backward = False

    def __enter__(self) -> Self:
        self._handles = [
            register_module_forward_pre_hook(self._before_module),
            register_module_forward_hook(self._after_module, always_call=True),
        ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        while self._handles:
            self._handles.pop().remove()

    @property
    def after(self) -> str:
        """The last module that ended inside of the outermost one, by name."""
        return self._places.after

    @property
    def _is_slope(self) -> bool:
        """Whether the present operation belongs to a backward pass, and not to a forward pass that it runs again."""
        return self._in_backward and not self._places.is_inside

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Take operations for those of a backward pass, meanwhile."""
        self._in_backward = True
        try:
            yield
        finally:
            self._in_backward = False

    # Modules

    def _before_module(self, module: nn.Module, _: Any) -> None:
        if get_ident() == self._thread:
            self._places.enter(module)

    def _after_module(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Blame a module whose code no operation was seen of, such as a compiled kernel."""
        if get_ident() != self._thread:
            return
        place = self._places.leave(module)
        before = self._origins_in(inputs)
        own = [each for each in module._buffers.values() if each is not None and _storage(each) in self._buffers]
        for each in _looked_at((output, own)):
            if _storage(each) not in self._origins and is_bad(each):
                self._note(each, place, "", before, _looked_at(inputs))

    # Operations

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._count += 1
        is_slope = self._is_slope
        place = self._places.of_node() if is_slope else self._places.mark()
        kwargs = kwargs or {}
        self.exchanges |= "c10d" in func._schema.name
        inputs = _looked_at((args, kwargs))
        mutates = func._schema.is_mutable
        before = self._origins_in(inputs) if mutates else []
        output = func(*args, **kwargs)
        name = (node_name() if is_slope else "") or func._schema.name.partition("::")[2]
        if name in _CASTS and inputs and isinstance(output, Tensor) and _storage(inputs[0]) in self._parameters:
            self._parameters.setdefault(_storage(output), self._parameters[_storage(inputs[0])])
        if name not in UNINITIALISED:
            self._look(name, place, inputs, output, before if mutates else None)
        return output

    def _look(self, name: str, place: Place, inputs: list[Tensor], output: Any, before: "list[Origin] | None") -> None:
        """Look at what an operation wrote; `before` are the origins in what it has overwritten, if it overwrites."""
        storages = {_storage(each) for each in inputs}
        silent = [
            each for each in inputs if _storage(each) in self._buffers
        ]  # kernels do not say that they write these
        written = [each for each in _looked_at(output) if before is not None or _storage(each) not in storages]
        bad = [each for each in (*written, *silent) if is_bad(each)]
        if bad:
            others = [each for each in inputs if _storage(each) not in {_storage(x) for x in bad}]
            found = before if before is not None else self._origins_in(others)
            for each in bad:
                self._note(each, place, name, found, inputs)
                self._buffers.discard(_storage(each))

    def _note(self, tensor: Tensor, place: Place, name: str, found: Sequence[Origin], inputs: Sequence[Tensor]) -> None:
        """Remember where a storage's damage comes from: from that in the inputs, or from this operation itself."""
        value = value_of(tensor)
        real = [each for each in found if not each.on_purpose]
        masks = [each for each in found if each.on_purpose] if value != "NaN" else []  # NaN out of a mask is made here
        origin = min(real or masks, key=lambda each: each.number, default=None) or Origin(
            number=self._count,
            place=place,
            operation=name.lstrip("_"),
            dtype=str(tensor.dtype).removeprefix("torch."),
            value=value,
            backward=self._is_slope,
            parameter=next((self._parameters[_storage(x)] for x in inputs if _storage(x) in self._parameters), ""),
            on_purpose=value != "NaN" and name.rstrip("_") in MASKING,
        )
        self._origins[_storage(tensor)] = origin, tensor  # held, so that its memory is not another's meanwhile

    def origin_of(self, tensor: Tensor) -> Origin | None:
        """Return where the damage in a tensor comes from; None for a finite one."""
        if not is_bad(tensor):
            return None
        at = _storage(tensor)
        if at not in self._origins:
            value = value_of(tensor)
            source = self._sources.get(at, OUTSIDE)
            is_mask = value == "-Inf" and not source.startswith("parameter")
            self._origins[at] = Origin(value=value, source=source, on_purpose=is_mask), tensor
        return self._origins[at][0]

    def _origins_in(self, tree: Any) -> list[Origin]:
        return [found for found in map(self.origin_of, _looked_at(tree)) if found is not None]


def is_bad(tensor: Tensor) -> bool:
    """Return whether a tensor holds what is not finite. Reads from the device."""
    return _is_looked_at(_dense(tensor)) and not all(map(math.isfinite, _bounds(tensor)))


def _dense(tensor: Tensor) -> Tensor:
    """Return a tensor, or the values of a sparse one, such as a gradient of an embedding."""
    return tensor.detach()._values() if tensor.layout is torch.sparse_coo else tensor


def _bounds(tensor: Tensor) -> tuple[float, float]:
    tensor = _dense(tensor)
    real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    low, high = torch.aminmax(real if real.element_size() > 1 else real.float())
    return float(low), float(high)


def value_of(tensor: Tensor) -> str:
    """Return "NaN", "Inf" or "-Inf" for a tensor that is not finite, the worst in it."""
    low, high = _bounds(tensor)
    if math.isnan(low):
        return "NaN"
    return "Inf" if high == math.inf else "-Inf"


def is_damaged(tensor: Tensor) -> bool:
    """Return whether a tensor holds NaN or Inf; -Inf alone may be a mask."""
    return is_bad(tensor) and value_of(tensor) != "-Inf"


def _is_looked_at(tensor: Tensor) -> bool:
    """Return whether values of a tensor can be read here: of a number type, dense, not empty, of no strange class."""
    return is_plain(tensor) and (tensor.is_floating_point() or tensor.is_complex()) and tensor.numel() > 0


def _looked_at(tree: Any) -> list[Tensor]:
    return [each for each in tensors_of(tree) if _is_looked_at(each)]


def _storage(tensor: Tensor) -> int:
    return int(_dense(tensor).untyped_storage()._cdata)


def _named(models: Sequence[nn.Module], what: str) -> Iterator[tuple[str, Tensor]]:
    for model, which in numbered(models):
        for name, each in getattr(model, what)():
            if _is_looked_at(each):
                yield plain(name) + which, each
