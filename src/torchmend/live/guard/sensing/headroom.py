"""How far activations in float16 are from its largest number, some steps before they reach it."""

import functools
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Finding
from torchmend.live.guard.sensing.places import Samples, and_more, home_of, hookable
from torchmend.live.half import LARGEST, LEAST_BITS, headroom
from torchmend.live.tensors import is_plain, tensors_of
from torchmend.live.wrapping import Hook
from torchmend.rules.evidence import finding

NEVER_MASK = (nn.Linear, nn.Bilinear, _ConvNd, _NormBase)
"""Modules that put no -Inf into their output on purpose; elsewhere it may be a mask."""

_HALVES = (torch.float16, torch.complex32)


class Headroom:
    """Looks at what modules put out in float16 during a sampled step.

    Args:
        models: Whose modules; those inside a compiled wrapper are not seen.

    Attributes:
        trained: The first module seen to put out float16 of which gradients are taken; empty until there is one.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self._models = models
        self._handles: list[Any] = []
        self._extremes: dict[tuple[str, torch.device], tuple[Tensor, Tensor]] = {}
        self._seen: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._masks: dict[str, bool] = {}
        self._samples: Samples[list[str]] = Samples()
        self._told: dict[str, float] = {}
        self.trained = ""

    def open(self) -> None:
        """Hook the modules, before the forward pass of a sampled step. What was open is dropped."""
        self._drop()
        for name, module in hookable(self._models):
            self._masks[name] = not isinstance(module, NEVER_MASK)
            hook = Hook(functools.partial(self._after_forward, name))
            self._handles.append(module.register_forward_hook(hook))

    def close(self) -> Tensor | None:
        """Remove the hooks.

        Returns:
            The figures for `judge`, float32 of shape (1 + 2 x modules,): the sample's number, then smallest and largest
            values in order of execution. None if nothing was put out in float16.
        """
        extremes = self._extremes
        self._drop()
        if not extremes:
            return None
        flat = [low for low, _ in extremes.values()] + [high for _, high in extremes.values()]
        home = home_of(flat)
        number = self._samples.begun([name for name, _ in extremes], home)
        return torch.cat((number.reshape(1), torch.stack([each.to(home) for each in flat]).float()))

    def _drop(self) -> None:
        while self._handles:
            self._handles.pop().remove()
        self._extremes, self._seen = {}, {}

    @torch.no_grad()
    def _after_forward(self, name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        for tensor in tensors_of(output):
            if tensor.dtype in _HALVES and tensor.numel() and is_plain(tensor) and self._is_new(tensor):
                if not self.trained and tensor.requires_grad:
                    self.trained = name
                real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
                low, high = torch.aminmax(real)
                key = name, tensor.device
                if key in self._extremes:  # checkpointing, or a module that is used twice
                    lowest, highest = self._extremes[key]
                    low, high = torch.minimum(low, lowest), torch.maximum(high, highest)
                self._extremes[key] = low, high

    def _is_new(self, tensor: Tensor) -> bool:
        """Return whether no other module put out this very tensor: a container often hands on its last child's."""
        version = 0 if tensor.is_inference() else tensor._version
        known = self._seen.get(id(tensor))
        if known is not None and known[0]() is tensor and known[1] == version:
            return False
        self._seen[id(tensor)] = weakref.ref(tensor), version
        return True

    def judge(self, figures: Sequence[float]) -> Iterator[Finding]:
        """Find modules with less than three bits of headroom; one is told again when it has lost another whole bit.

        Args:
            figures: What a `close` returned.
        """
        number, *extremes = figures
        names = self._samples.taken(number)
        largest: dict[str, float] = {}
        for name, low, high in zip(names, extremes[: len(names)], extremes[len(names) :], strict=True):
            below = 0.0 if low == -math.inf and self._masks[name] else -low
            largest[name] = max(largest.get(name, 0.0), below, high)
        new = []
        for name, value in largest.items():
            bits = headroom(value)
            if bits < LEAST_BITS and bits <= self._told.get(name, math.inf) - 1:
                self._told[name] = bits
                new.append(name)
        if new:
            first = largest[new[0]]
            left = f"{headroom(first):.1f} bits of headroom" if math.isfinite(first) else "overflow"
            yield finding(
                Code.HEADROOM_LOW,
                Severity.WARNING,
                detail=f"{and_more(new, 'module')}: {left} in float16, the largest value is {first:g} "
                f"of {LARGEST:g}; run this module in float32 (torchmend.stabilise) or bfloat16",
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what was told, as plain values."""
        return {"told": dict(self._told)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what another run has told."""
        self._told = dict(state["told"])


def unscaled(name: str) -> Finding:
    """Say that gradients of a module's float16 output are taken without a GradScaler."""
    detail = (
        f"{name} puts out float16, and no GradScaler is known to the guard: gradients below 6e-8 underflow to zero; "
        "use one, and pass scaler=, or run in bfloat16"
    )
    return finding(Code.RISKY_SETUP, Severity.WARNING, detail=detail)
