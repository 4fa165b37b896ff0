"""Where values that are not finite first come from in a forward pass, looked for after a step was refused."""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Finding
from torchmend.live.guard.sensing.headroom import NEVER_MASK
from torchmend.live.guard.sensing.places import Samples, home_of, hookable
from torchmend.live.tensors import is_plain, tensors_of
from torchmend.live.wrapping import Hook
from torchmend.rules.evidence import finding


class Origins:
    """Looks at everything that modules put out in one step.

    Args:
        models: Whose modules; those inside a compiled wrapper are not seen.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self._models = models
        self._handles: list[Any] = []
        self._extremes: list[tuple[str, bool, Tensor, Tensor]] = []
        self._samples: Samples[list[tuple[str, bool]]] = Samples()
        self._told: set[str] = set()
        self.first = ""

    def open(self) -> None:
        """Hook the modules before a forward pass. What was open is dropped."""
        self._drop()
        for name, module in hookable(self._models):
            hook = Hook(functools.partial(self._after_forward, name))
            self._handles.append(module.register_forward_hook(hook))

    def close(self) -> Tensor | None:
        """Remove the hooks.

        Returns:
            The figures for `judge`, float32 of shape (1 + 2 x outputs,): the sample's number, then smallest and largest
            values in order of execution. None if nothing was put out.
        """
        extremes = self._extremes
        self._drop()
        if not extremes:
            return None
        flat = [low for _, _, low, _ in extremes] + [high for *_, high in extremes]
        home = home_of(flat)
        number = self._samples.begun([(name, masks) for name, masks, _, _ in extremes], home)
        return torch.cat((number.reshape(1), torch.stack([each.to(home) for each in flat])))

    def _drop(self) -> None:
        while self._handles:
            self._handles.pop().remove()
        self._extremes = []

    @torch.no_grad()
    def _after_forward(self, name: str, module: nn.Module, _inputs: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        for tensor in tensors_of(output):
            if (tensor.is_floating_point() or tensor.is_complex()) and tensor.numel() and is_plain(tensor):
                real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
                low, high = torch.aminmax(real if real.element_size() > 1 else real.float())
                self._extremes.append((name, not isinstance(module, NEVER_MASK), low.float(), high.float()))

    def judge(self, figures: Sequence[float]) -> Iterator[Finding]:
        """Find the first module that put out NaN or Inf; each is told once. -Inf may be a mask, and is passed over.

        Args:
            figures: What a `close` returned.
        """
        number, *extremes = figures
        outputs = self._samples.taken(number)
        self.first = ""
        for (name, masks), low, high in zip(outputs, extremes[: len(outputs)], extremes[len(outputs) :], strict=True):
            is_mask = masks and low == -math.inf and high < math.inf
            if not (math.isfinite(low) and math.isfinite(high)) and not is_mask:
                self.first = name
                break
        if self.first and self.first not in self._told:
            self._told.add(self.first)
            detail = f"{self.first}: the first module of the forward pass to put out NaN or Inf"
            yield finding(Code.GRADIENT_NOT_FINITE, Severity.WARNING, detail=detail)
