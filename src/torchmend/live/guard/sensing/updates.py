"""What a step did to the weights: how far they moved, and whether they moved at all."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Finding
from torchmend.live.guard.sensing.places import Samples, and_more, home_of
from torchmend.rules.evidence import finding

SAMPLES = 3
"""Samples in a row in which a parameter stood still that make a finding."""

LEAST_GRADIENT = 1e-3
"""The root mean square of a parameter's gradient, relative to that of all: below it is rounding, as in a bias before a
normalisation layer, and need not move anything."""

LEAST_RATE = 1e-3
"""The learning rate relative to the group's initial one, below which a schedule has come to its end."""

MAY_STAND_STILL = ("LBFGS", "Rprop")
"""Optimizers that take no step where a search finds none, or where signs change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReport:
    """What a sampled step did.

    Args:
        ratio: The largest norm of an update relative to that of its matrix; Inf for an update with NaN; 0.0 without
            any. A matrix that was all zero before the step does not count; in the step after, about 1 is usual.
        name: Whose; empty without any.
        still: Parameters that did not move in the last samples though they had gradients.
        findings: New ones about those.
    """

    ratio: float = 0.0
    name: str = ""
    still: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    """A parameter in a sampled step.

    Args:
        name: Its name.
        numel: Its elements.
        is_matrix: Whether it has two dimensions or more.
        group: The number of its group.
    """

    name: str
    numel: int
    is_matrix: bool
    group: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """What a sampled step's figures are of.

    Args:
        watched: The parameters, in the order of the figures.
        rates: The groups' learning rates; those that are tensors are among the figures.
    """

    watched: tuple[_Watched, ...] = ()
    rates: tuple[float | Tensor, ...] = ()


class Updates:
    """Compares parameters before and after a sampled step of an optimizer. Between the two it holds a copy of them.

    Args:
        optimizer: Whose step.
        named: Gives its parameters by name.
    """

    def __init__(self, optimizer: Optimizer, named: Callable[[], Mapping[str, Tensor]]) -> None:
        self._optimizer = optimizer
        self._named = named
        self._may_stand_still = type(optimizer).__name__ in MAY_STAND_STILL or "line_search_fn" in optimizer.defaults
        self._parameters: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._sample = _Sample()
        self._samples: Samples[_Sample] = Samples()
        self._streaks: dict[str, int] = {}

    @torch.no_grad()
    def before(self) -> None:
        """Keep a copy of each parameter that has a gradient, and the norms of both, before a sampled step."""
        self.drop()
        groups = self._optimizer.param_groups
        group_of = {id(each): at for at, group in enumerate(groups) for each in group["params"]}
        chosen = [
            (name, each)
            for name, each in self._named().items()
            if id(each) in group_of and each.grad is not None and each.numel()
        ]
        self._parameters = [each for _, each in chosen]
        self._copies = _copied([_elements(each) for each in self._parameters])
        self._norms = [
            *_norms_of([_elements(each.grad) for each in self._parameters if each.grad is not None]),
            *_norms_of(self._copies),
        ]
        self._sample = _Sample(
            watched=tuple(
                _Watched(name=name, numel=each.numel(), is_matrix=each.dim() > 1, group=group_of[id(each)])
                for name, each in chosen
            ),
            rates=tuple(_rate(group) for group in groups),
        )

    @torch.no_grad()
    def after(self) -> Tensor | None:
        """Compare, after the step.

        Returns:
            The figures for `judge`, float32 of shape (1 + 3 x parameters + learning rates that are tensors,): the
            sample's number, norms of gradients, of parameters before the step and of their updates. None without
            `before`, or without gradients.
        """
        if not self._copies:
            return None
        live = [_elements(each) for each in self._parameters]
        for alike in _kinds(self._copies):
            torch._foreach_sub_([self._copies[at] for at in alike], [live[at] for at in alike])
        rates = [each.detach().reshape(()) for each in self._sample.rates if isinstance(each, Tensor)]
        figures = [*self._norms, *_norms_of(self._copies), *rates]
        home = home_of(figures)
        number = self._samples.begun(self._sample, home)
        self.drop()
        return torch.stack([number, *(each.to(home, torch.float32) for each in figures)])

    def drop(self) -> None:
        """Forget the copies; for a step that will not come to its end."""
        self._parameters, self._copies, self._norms = [], [], []

    def judge(self, figures: Sequence[float]) -> UpdateReport:
        """Find the largest update, and parameters that stood still in three samples in a row.

        One that stood still is told once, and again only when it moved in between.

        Args:
            figures: What an `after` returned.
        """
        number, *norms = figures
        sample = self._samples.taken(number)
        count = len(sample.watched)
        gradients, weights, updates = (norms[at * count : (at + 1) * count] for at in range(3))
        ratios = [
            (_ratio(update, weight), each.name)
            for each, weight, update in zip(sample.watched, weights, updates, strict=True)
            if each.is_matrix and weight > 0
        ]
        ratio, name = max(ratios, default=(0.0, ""), key=lambda pair: pair[0])
        moving = _moving_groups(sample, norms[3 * count :])
        stood = self._stood_still(sample, gradients, updates, moving)
        new = [each for each in stood if self._streaks[each] == SAMPLES]
        still = tuple(each for each in stood if self._streaks[each] >= SAMPLES)
        return UpdateReport(ratio=ratio, name=name, still=still, findings=(_vanishing(new),) if new else ())

    def _stood_still(
        self, sample: _Sample, gradients: Sequence[float], updates: Sequence[float], moving: Sequence[bool]
    ) -> list[str]:
        """Count for how many samples each parameter stood still; return those that did now.

        A step with a gradient that is not finite says nothing: a fused optimizer leaves it out by itself.
        """
        total = math.hypot(*gradients)
        if self._may_stand_still or not math.isfinite(total):
            return []
        usual = LEAST_GRADIENT * total / math.sqrt(sum(each.numel for each in sample.watched) or 1)
        stood = []
        for each, gradient, update in zip(sample.watched, gradients, updates, strict=True):
            if update != 0:
                self._streaks.pop(each.name, None)
            elif moving[each.group] and gradient > usual * math.sqrt(each.numel):
                self._streaks[each.name] = self._streaks.get(each.name, 0) + 1
                stood.append(each.name)
        return stood

    def state_dict(self) -> dict[str, Any]:
        """Return for how many samples each parameter stood still, as plain values."""
        return {"streaks": dict(self._streaks)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what another run has seen."""
        self._streaks = dict(state["streaks"])


def _moving_groups(sample: _Sample, rates: Sequence[float]) -> list[bool]:
    """Return which groups have a learning rate that lets parameters move."""
    known = iter(rates)
    return [(next(known) if isinstance(each, Tensor) else each) > 0 for each in sample.rates]


def _vanishing(names: Sequence[str]) -> Finding:
    detail = (
        f"{and_more(names, 'parameter')}: no element moved in {SAMPLES} sampled steps in a row, with gradients of "
        "ordinary size"
    )
    return finding(Code.UPDATES_VANISH, Severity.WARNING, detail=detail)


def _rate(group: Mapping[str, Any]) -> float | Tensor:
    """Return a group's learning rate, as a tensor if it is one; 0.0 where a schedule has all but come to its end."""
    rate: float | Tensor = group.get("lr", 1.0)
    first = group.get("initial_lr", 0.0)
    if isinstance(rate, Tensor) or isinstance(first, Tensor):
        return rate
    return rate if rate > LEAST_RATE * first else 0.0


def _ratio(update: float, weight: float) -> float:
    return math.inf if math.isnan(update) else update / weight


def _elements(tensor: Tensor) -> Tensor:
    """Return what a parameter or a gradient holds here, dense and real."""
    found = tensor.detach()
    if found.layout is torch.sparse_coo:
        found = found._values()  # `coalesce` would wait for the device
    local: Tensor = found.to_local() if hasattr(found, "to_local") else found
    return torch.view_as_real(local) if local.is_complex() else local


def _copied(tensors: Sequence[Tensor]) -> list[Tensor]:
    copies = [torch.empty_like(each) for each in tensors]
    for alike in _kinds(tensors):
        torch._foreach_copy_([copies[at] for at in alike], [tensors[at] for at in alike])
    return copies


def _norms_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the 2-norm of each, in float32 or wider."""
    norms: dict[int, Tensor] = {}
    for alike in _kinds(tensors):
        group = [tensors[at] for at in alike]
        wide = torch.float32 if group[0].dtype.itemsize < 4 else None
        norms.update(zip(alike, torch._foreach_norm(group, 2, wide), strict=True))
    return [norms[at] for at in range(len(tensors))]


def _kinds(tensors: Sequence[Tensor]) -> Iterator[list[int]]:
    """Yield the places of tensors that fused kernels take together."""
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for at, tensor in enumerate(tensors):
        groups.setdefault((tensor.device, tensor.dtype), []).append(at)
    yield from groups.values()
