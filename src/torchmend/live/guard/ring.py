"""Snapshots of a run to go back to, taken when it was seen to be healthy."""

import copy
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchmend.facts.errors import UserError
from torchmend.live.guard.buffers import was_moved
from torchmend.live.guard.skipping import rebuilt
from torchmend.live.rng import RngState

_Tensors = list[tuple[Tensor, Tensor]]
"""Live tensors, each with the elements that it had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """How snapshots are kept.

    Args:
        every: Steps between two.
        keep: How many; the oldest makes room.
        lag: Going back takes the newest that is at least so many steps old: slow divergence shows late.
        device: Where they lie: "cpu" spares the accelerator's memory; None leaves them beside the model.
        retries: After so many returns to the same snapshot the next goes to the one before it; with none left the run
            stops.
        most_bytes: No snapshots are kept if they would take more; None sets no limit.
    """

    every: int = 100
    keep: int = 2
    lag: int = 0
    device: str | None = "cpu"
    retries: int = 3
    most_bytes: int | None = None

    def __post_init__(self) -> None:
        """Raise UserError for values without a meaning."""
        for name, least in (("every", 1), ("keep", 1), ("lag", 0), ("retries", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be {least} or more.")


@dataclass(slots=True)
class _Snapshot:
    step: int
    tensors: _Tensors
    buffers: list[tuple[nn.Module, str, Tensor | None, Tensor | None]]
    extra: list[tuple[nn.Module, Any]]
    optimizers: list[dict[str, Any]]
    groups: list[list[dict[str, Any]]]
    others: list[dict[str, Any]]
    random: RngState
    used: int = 0


class Snapshots:
    """The snapshots of a run.

    Args:
        ring: How they are kept.
        models: Whose parameters and buffers.
        optimizers: Whose state.
        others: Schedulers, scalers, averages: anything with a state dict.
    """

    def __init__(
        self, ring: Ring, models: Sequence[nn.Module], optimizers: Sequence[Optimizer], others: Sequence[Any]
    ) -> None:
        self._ring = ring
        self._models, self._optimizers, self._others = models, optimizers, others
        self._kept: deque[_Snapshot] = deque(maxlen=ring.keep)

    @property
    def fits(self) -> bool:
        """Whether the snapshots take no more than they may."""
        return self._ring.most_bytes is None or self.nbytes <= self._ring.most_bytes

    @property
    def nbytes(self) -> int:
        """Bytes that all snapshots will take, optimizer state counted as if there were two moments."""
        parameters = sum(p.nbytes for model in self._models for p in model.parameters())
        buffers = sum(b.nbytes for model in self._models for b in model.buffers())
        return self._ring.keep * (3 * parameters + buffers)

    def is_due(self, step: int) -> bool:
        """Return whether there is none yet, or the time of the next one has come."""
        return not self._kept or step // self._ring.every > self._kept[-1].step // self._ring.every

    @torch.no_grad()
    def take(self, step: int) -> None:
        """Keep the run as it is now; the caller has seen that it is healthy."""
        parameters = [each for model in self._models for each in model.parameters()]
        modules = list(dict.fromkeys(module for model in self._models for module in model.modules()))
        extra = [each for each in modules if type(each).get_extra_state is not nn.Module.get_extra_state]
        self._kept.append(
            _Snapshot(
                step=step,
                tensors=[(each, self._copy(each)) for each in parameters],
                buffers=[
                    (module, key, buffer, self._copied(buffer))
                    for module in modules
                    for key, buffer in module._buffers.items()
                ],
                extra=[(each, copy.deepcopy(each.get_extra_state())) for each in extra],
                optimizers=[self._copied(optimizer.state) for optimizer in self._optimizers],
                groups=[self._copied(_settings(optimizer)) for optimizer in self._optimizers],
                others=[self._copied(each.state_dict()) for each in self._others],
                random=RngState.now(_accelerators()),
            )
        )

    def newest(self, step: int, *, again: bool = False) -> int | None:
        """Return the step of the newest snapshot that is old enough; None if there is none that may be used again.

        Args:
            step: How many steps have come to their end.
            again: Take also one that was used as often as it may be.
        """
        snapshot = self._usable(step, again=again)
        return None if snapshot is None else snapshot.step

    def _usable(self, step: int, *, again: bool) -> _Snapshot | None:
        old_enough = [each for each in self._kept if each.step <= step - self._ring.lag]
        return next((each for each in reversed(old_enough) if again or each.used < self._ring.retries), None)

    def forget(self) -> None:
        """Drop all snapshots: the run goes on from another state."""
        self._kept.clear()

    @torch.no_grad()
    def go_back(self, step: int, *, again: bool = False) -> int:
        """Put the run back to the newest snapshot that is old enough; those that are newer are dropped.

        Args:
            step: How many steps have come to their end.
            again: As for `newest`.

        Returns:
            How often the run went back to this one, now included.
        """
        snapshot = self._usable(step, again=again)
        assert snapshot is not None, "there is a snapshot only if `newest` says so"
        snapshot.used += 1
        while self._kept[-1] is not snapshot:  # what is newer may hold what went wrong
            self._kept.pop()
        for live, kept in snapshot.tensors:
            live.data.copy_(kept)
        for module, key, before, buffer in snapshot.buffers:
            _restore_buffer(module, key, before, buffer)
        for module, extra in snapshot.extra:
            module.set_extra_state(copy.deepcopy(extra))
        for optimizer, state in zip(self._optimizers, snapshot.optimizers, strict=True):
            _restore_state(optimizer, state)
        for optimizer, groups in zip(self._optimizers, snapshot.groups, strict=True):
            _restore_settings(optimizer, groups)
        for each, state in zip(self._others, snapshot.others, strict=True):
            each.load_state_dict(_written(None, state, None))
        snapshot.random.restore()
        return snapshot.used

    def _copy(self, tensor: Tensor) -> Tensor:
        device = self._ring.device or tensor.device
        return tensor.detach().to(device, copy=True)

    def _copied(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._copy(value)
        if isinstance(value, dict):
            return _alike(value, {key: self._copied(each) for key, each in value.items()})
        if isinstance(value, list | tuple):
            return rebuilt(value, map(self._copied, value))
        return value


def _restore_buffer(module: nn.Module, key: str, before: Tensor | None, kept: Tensor | None) -> None:
    """Write a buffer in place; one that a forward pass replaced since may be a batch of the user: it is left alone."""
    live = module._buffers.get(key)
    if live is not None and kept is not None and (live is before or was_moved(before, live)):
        live.data.copy_(kept)
    elif live is not before:
        module._buffers[key] = None if before is None or kept is None else kept.to(before.device, copy=True)


def _restore_state(optimizer: Optimizer, kept: dict[Any, Any]) -> None:
    """Write an optimizer's state in place: `load_state_dict` would cast moments to the parameters' type."""
    for parameter in [each for each in optimizer.state if each not in kept]:
        del optimizer.state[parameter]
    for parameter, fields in kept.items():
        state = optimizer.state[parameter]
        for name in state.keys() - fields.keys():
            del state[name]
        for name, value in fields.items():
            state[name] = _written(state.get(name), value, parameter.device)


def _written(live: Any, kept: Any, device: torch.device | None) -> Any:
    """Return what was kept, written into the live tensor where there is one.

    The rest is copied, for the snapshot may be needed once more.

    Args:
        live: What lies there now.
        kept: Of the snapshot.
        device: Where tensors go that have no live one; None leaves them where they are, as it does single numbers.
    """
    if isinstance(kept, Tensor):
        if isinstance(live, Tensor) and live.shape == kept.shape:
            live.data.copy_(kept)
            return live
        return kept.detach().to(device if kept.dim() else None, copy=True)
    if isinstance(kept, dict):
        return _alike(kept, {key: _written(None, each, device) for key, each in kept.items()})
    if isinstance(kept, list | tuple):
        return rebuilt(kept, (_written(None, each, device) for each in kept))
    return kept


def _alike(given: dict[Any, Any], items: dict[Any, Any]) -> dict[Any, Any]:
    """Return a dictionary of the given one's type with other values: MultiStepLR keeps its milestones in a Counter."""
    made = copy.copy(given)
    for key, value in items.items():
        made[key] = value
    return made


def _settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return what the groups hold besides parameters: many schedulers work out the next rate from the last one."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def _restore_settings(optimizer: Optimizer, kept: list[dict[str, Any]]) -> None:
    """Write the groups' settings; a group that was added since keeps its own."""
    for group, settings in zip(optimizer.param_groups, kept, strict=False):
        for name, value in settings.items():
            group[name] = _written(group.get(name), value, None)


def _accelerators() -> list[torch.device]:
    return [torch.device("cuda", at) for at in range(torch.cuda.device_count())]
