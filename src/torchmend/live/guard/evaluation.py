"""Normalisation statistics before they are read: at the first evaluation after training, and after a load."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from torchmend.live.diagnosing import diagnose_live
from torchmend.live.guard.reservoir import Reservoir
from torchmend.live.guard.sensing.reading import measure, observation
from torchmend.live.guard.slots import STATISTICS, VARIANCE, Slot, is_bad, side_by_side
from torchmend.live.ownership import is_compiled, is_traced, may_be_hooked, plain
from torchmend.live.repairing import repair_live
from torchmend.live.wrapping import EagerHook, Hook, Wrapping

if TYPE_CHECKING:
    from torchmend.live.guard.transaction import Transaction

logger = logging.getLogger("torchmend.guard")


class Evaluation:
    """Checks statistics before an evaluation reads them, and repairs those that are damaged.

    Args:
        models: Whose.
        transactions: Which keep copies of the buffers as they were before the last training step.
        reservoir: Keeps recent batches to measure statistics on.
        after_load: Called when state was loaded into one of them.
        acts: Whether to repair, or only to report.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        transactions: "Sequence[Transaction]",
        reservoir: Reservoir,
        after_load: Callable[[], None],
        *,
        acts: bool,
    ) -> None:
        self.were_sound = True
        self.repaired = 0
        self._models = models
        self._transactions = transactions
        self._reservoir = reservoir
        self._tell_of_load = after_load
        self._acts = acts
        self._is_due = True

    def attach(self, wrapping: Wrapping) -> None:
        """Hook the layers that read statistics, and the loading of state into the models."""
        hooked = may_be_hooked(self._models)
        for model in self._models:
            for module in model.modules():
                if module in hooked and (is_compiled(module) or _keeps_statistics(module)):
                    wrapping.hook(module.register_forward_pre_hook(EagerHook(self._before_forward)))
            wrapping.hook(model.register_load_state_dict_post_hook(Hook(self._after_load)))  # type: ignore[no-untyped-call]

    def _before_forward(self, module: nn.Module, _: Any) -> None:
        if module.training:
            self._is_due = True  # statistics are about to change; frozen ones are not looked at again each step
        elif self._is_due and not is_traced():
            self.check()

    def _after_load(self, module: nn.Module, _: Any) -> None:
        self._tell_of_load()
        logger.info("Performing post-load model health check...")
        diagnosis = diagnose_live(module)
        if not diagnosis.damaged:
            logger.info("Model health: OK")
            self.were_sound, self._is_due = self._are_sound(), False
            return
        logger.warning("[WARN] Found %d corrupted stats after loading!", len(diagnosis.damaged))
        if self._acts:
            with self._told():
                self._mend(module)
        self.were_sound = self._are_sound()

    def check(self) -> bool:
        """Look at all statistics; repair what is damaged.

        Returns:
            Whether all were sound.
        """
        self._is_due = False
        sound = self._are_sound()
        if not sound:
            steps = max((each.steps for each in self._transactions), default=0)
            bad = next((slot.name for slot in self._slots() if is_bad(slot.key, slot.tensor)), "")
            logger.warning("[Pre-validation sanitization at iter %d] %s is damaged", steps, bad)
            if self._acts:
                with self._told():
                    self._from_copies()
                    for model in self._models:
                        self._mend(model)
        self.were_sound = sound or (self._acts and self._are_sound())
        return sound

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Name every statistic that is repaired meanwhile, and count them."""
        damaged = [slot for slot in self._slots() if is_bad(slot.key, slot.tensor)]
        yield
        repaired = [slot for slot in damaged if not is_bad(slot.key, slot.tensor)]
        for slot in repaired:
            logger.warning("[SANITIZE] Repaired corrupted %s: %s", slot.key, slot.name.removesuffix(f".{slot.key}"))
        if repaired:
            logger.warning("Sanitized %d BatchNorm statistics.", len(repaired))

    def _slots(self) -> list[Slot]:
        return [
            Slot(plain(f"{name}.{key}" if name else key), module, key)
            for model in self._models
            for name, module in model.named_modules()
            if isinstance(module, _NormBase)
            for key in STATISTICS
            if module._buffers.get(key) is not None
        ]

    def _are_sound(self) -> bool:
        """Look at all statistics of all models, whatever else in them is damaged."""
        figures = measure((), side_by_side(self._slots()))
        seen = observation(figures, figures.values.tolist())
        return seen.buffers_finite and seen.variances_valid

    @torch.no_grad()
    def _from_copies(self) -> None:
        """Take damaged elements from the copies of the last step, where those are sound."""
        for transaction in self._transactions:
            for slot, kept in zip(transaction.buffers.slots, transaction.buffers.kept, strict=False):
                live = slot.tensor
                if live is None or kept is None or not slot.is_statistic or not live.is_floating_point():
                    continue
                bad, usable = ~live.isfinite(), kept.isfinite()
                if slot.key == VARIANCE:
                    bad, usable = bad | (live < 0), usable & (kept >= 0)
                count = int((bad & usable).sum())
                if count:
                    live.data.copy_(torch.where(bad & usable, kept, live))
                    self.repaired += count
                    logger.warning("%s: %d values taken from the last healthy copy", slot.name, count)

    def _mend(self, model: nn.Module) -> None:
        """Measure again what no copy had, on recent batches; predict what is damaged still."""
        self._is_due, was_due = False, self._is_due  # its forward passes are no evaluation
        self.repaired += self._reservoir.recalibrate(model)
        self._is_due = was_due
        self._repair(model)

    def _repair(self, model: nn.Module) -> None:
        """Predict what neither a copy nor a batch gave; what cannot be predicted is reported, and stays as it is."""
        result = repair_live(model)
        count = sum(edit.count for edit in result.plan.edits)
        if count:
            self.repaired += count
            logger.warning("%d values predicted from what is healthy", count)
        for refusal in result.plan.refused:
            logger.warning("%s is damaged and cannot be repaired: %s", refusal.place, refusal.reason)


def _keeps_statistics(module: nn.Module) -> bool:
    return isinstance(module, _NormBase) and module.track_running_stats
