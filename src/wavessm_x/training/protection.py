"""How torchmend guards the training: all of the classic recipe's protections, and its log lines."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

import torchmend
from wavessm_x.config import TrainConfig
from wavessm_x.training.processes import first_told

logger = logging.getLogger("wavessm_x")


class Protection:
    """A guard, and what it says of a step that it refused.

    Args:
        model: What is trained; under DistributedDataParallel the wrapper.
        optimizer: Of its weights.
        config: Of the training.
        **steps_along: Scaler, scheduler and averaged model.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, config: TrainConfig, **steps_along: Any) -> None:
        self.seen: dict[str, Tensor | Iterable[Tensor]] = {}
        """What the step under way works on, first things first: INPUT, OUTPUT, SUBLOSS."""
        self._measured = 0
        self.guard = torchmend.Guard(
            model,
            optimizer,
            clip=torchmend.Clip(limit=config.clip),
            check_every=config.health_every,
            on_decision=self._on_decision,
            **steps_along,
        )

    def _on_decision(self, decision: torchmend.Decision) -> None:
        if decision.action in (torchmend.Action.REFUSE, torchmend.Action.ROLL_BACK):
            is_outlier = torchmend.Code.TRAINING_SPIKE in {each.code for each in decision.findings}
            where, who = first_told(next((name for name, each in self.seen.items() if not _is_finite(each)), ""))
            origin = decision.origin or "; ".join(each.detail for each in decision.findings)
            kind = "OUTLIER" if is_outlier else f"NaN {where or 'GRAD'}"
            logger.warning("[%s] iter %d: %s%s", kind, decision.step, origin, who)

    def before_validation(
        self, model: nn.Module, batches: Callable[[], list[Any]], score: Callable[[nn.Module], float]
    ) -> None:
        """Repair damaged statistics, measure them again on training batches, and say what it brought.

        Args:
            model: What is evaluated.
            batches: Gives training batches, as tuples of positional arguments.
            score: The PSNR of a model, in decibels.
        """
        with self.guard.evaluating():
            pass
        if self.guard.repaired > self._measured:
            result = torchmend.recalibrate(model, batches(), layers="all", evaluate=score)
            logger.info(
                "Recalibrated %d BatchNorm layers on training batches: PSNR %.2f -> %.2f",
                len(result.layers),
                result.before,
                result.after,
            )
            self._measured = self.guard.repaired


def _is_finite(value: Tensor | Iterable[Tensor]) -> bool:
    tensors = [value] if isinstance(value, Tensor) else value
    return all(bool(each.detach().isfinite().all()) for each in tensors)
