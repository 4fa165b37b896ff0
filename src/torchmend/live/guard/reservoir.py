"""What the models were called with in the last healthy steps, so that statistics can be measured again on it."""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from torchmend.live.forensics.calls import Autocast, version_of
from torchmend.live.ownership import is_traced
from torchmend.live.recalibrating.layers import tracking_layers
from torchmend.live.recalibrating.recalibration import FEWEST_BATCHES, recalibrate
from torchmend.live.wrapping import EagerHook, Wrapping

logger = logging.getLogger("torchmend.guard")

MOST_BYTES = 256 << 20
"""Of each model's inputs, which are kept alive, and are not copied."""

_PLAIN = (Tensor, bool, int, float, str, type(None), torch.dtype, torch.device)


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What a model was called with.

    Args:
        arguments: Tensors share memory with what was passed, without its graph.
        keywords: Likewise.
        versions: Of the tensors; one that was written since is another batch by now.
        autocast: As it was.
    """

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    versions: tuple[int, ...]
    autocast: Autocast

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments."""
        return [each for each in tree_leaves((self.arguments, self.keywords)) if isinstance(each, Tensor)]

    @property
    def nbytes(self) -> int:
        """How much memory they keep alive, if nobody else does."""
        return sum(each.numel() * each.element_size() for each in self.tensors)

    @property
    def is_intact(self) -> bool:
        """Whether nothing was written over it since."""
        return self.versions == tuple(map(version_of, self.tensors))


class Reservoir:
    """Keeps the inputs of the last healthy steps, and repairs damaged statistics on them.

    Args:
        models: Those that keep running statistics are hooked, at their outermost forward pass.
        most: How many calls of each are kept; 0 keeps none.
    """

    def __init__(self, models: Sequence[nn.Module], most: int) -> None:
        self._kept: dict[nn.Module, deque[Call]] = {
            model: deque(maxlen=most) for model in models if most and tracking_layers(model)
        }
        self._waiting: dict[nn.Module, deque[Call]] = {model: deque(maxlen=most) for model in self._kept}

    def attach(self, wrapping: Wrapping) -> None:
        """Hook the models."""
        for model in self._kept:
            wrapping.hook(model.register_forward_pre_hook(EagerHook(self._before_forward), with_kwargs=True))

    def kept(self, model: nn.Module) -> list[Call]:
        """Return what is kept of a model's inputs, oldest first."""
        return [call for call in self._kept.get(model, ()) if call.is_intact]

    def forget(self) -> None:
        """Keep nothing of what came so far."""
        for calls in (*self._kept.values(), *self._waiting.values()):
            calls.clear()

    def _before_forward(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if not module.training or is_traced():
            return
        leaves = tree_leaves((arguments, keywords))
        if not all(isinstance(each, _PLAIN) for each in leaves):
            return  # an object of the user's: what it holds, and for how long it stays as it is, nobody knows
        tensors = [each for each in leaves if isinstance(each, Tensor)]
        arguments, keywords = tree_map_only(Tensor, Tensor.detach, (arguments, keywords))
        device = tensors[0].device.type if tensors else "cpu"
        call = Call(arguments, keywords, tuple(map(version_of, tensors)), Autocast.now(device))
        if call.nbytes <= MOST_BYTES:
            self._waiting[module].append(call)

    def note(self, *, happened: bool, is_last: bool) -> None:
        """Take over, or drop, the inputs of a step that came to its end.

        Args:
            happened: Whether nothing of it was refused.
            is_last: Whether no other optimizer's step is under way, of which some of the inputs may be.
        """
        for model, waiting in self._waiting.items():
            if happened and is_last:
                self._kept[model].extend(waiting)
                _shorten(self._kept[model])
            if is_last or not happened:
                waiting.clear()

    def recalibrate(self, model: nn.Module) -> int:
        """Measure what is damaged of a model's statistics again on what is kept.

        Returns:
            How many elements were written; 0 where too little is kept, or the model cannot be run on it.
        """
        calls = self.kept(model)
        if len(calls) < FEWEST_BATCHES:
            return 0
        try:
            result = recalibrate(model, calls, forward=_repeat)
        except Exception as error:  # the user's model may raise anything in another mode; the run has to go on
            logger.warning("The statistics could not be measured again on recent batches: %s", error)
            return 0
        if result.tensors:
            logger.warning("recalibrated %d layers on %d recent batches", len(result.layers), len(calls))
        return sum(len(each.elements) for each in result.tensors)


def _repeat(model: nn.Module, call: Call) -> Any:
    with call.autocast.again():
        return model(*call.arguments, **call.keywords)


def _shorten(calls: deque[Call]) -> None:
    """Drop the oldest calls until the rest keep no more memory alive than they may."""
    while sum(call.nbytes for call in calls) > MOST_BYTES:
        calls.popleft()
