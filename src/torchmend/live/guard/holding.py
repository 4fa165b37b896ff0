"""What has no hooks is overridden on the instances that the guard was given: scalers, schedulers, averages."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from torchmend.facts.errors import UserError
from torchmend.live.guard.transaction import ABANDONED, Transaction
from torchmend.live.wrapping import Wrapping


class Held:
    """Calls a scheduler's or an average's method, unless all that happened since its last call is one refused step.

    A second call after the same step is treated as the first was.

    A scheduler that steps once an epoch has seen many steps by then, and is never held.

    Args:
        transactions: Whose steps count.
    """

    def __init__(self, transactions: Sequence[Transaction]) -> None:
        self._transactions = transactions
        self._since: list[tuple[Transaction, bool]] = []
        self._holds = False

    def note(self, transaction: Transaction, happened: bool) -> None:
        """Note the end of a step."""
        if transaction in self._transactions:
            self._since = [*self._since[-len(self._transactions) :], (transaction, happened)]

    def __call__(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Call the overridden method, or leave it."""
        since, self._since = self._since, []
        if since:
            once_each = len({id(transaction) for transaction, _ in since}) == len(since)
            self._holds = once_each and not any(happened for _, happened in since)
        if self._holds:
            return None
        return original(*arguments, **keywords)


def hold_scheduler(scheduler: Any, transactions: Sequence[Transaction], wrapping: Wrapping) -> Held:
    """Hold a scheduler's `step` with the steps of its own optimizer."""
    optimizer = getattr(scheduler, "optimizer", None)
    held = Held([each for each in transactions if each.optimizer is optimizer] or list(transactions))
    wrapping.override(scheduler, step=held)
    return held


def hold_average(average: Any, transactions: Sequence[Transaction], wrapping: Wrapping) -> Held:
    """Hold the update of an EMA or SWA model.

    Raises:
        UserError: It has no method that could be held.
    """
    name = next((name for name in ("update_parameters", "update") if hasattr(type(average), name)), None)
    if name is None:
        raise UserError(f"A {type(average).__name__} has neither update_parameters nor update; leave it out.")
    held = Held(transactions)
    wrapping.override(average, **{name: held})
    return held


class HeldScaler:
    """A GradScaler whose own refusals are reverted, and to which refusals of the guard are no successes.

    Args:
        scaler: A `torch.amp.GradScaler`, or one with its methods.
        transactions: Of the optimizers that it steps.
        acts: Whether anything is undone.
    """

    def __init__(self, scaler: Any, transactions: Sequence[Transaction], wrapping: Wrapping, *, acts: bool) -> None:
        self._scaler = scaler
        self._transactions = transactions
        self._acts = acts
        self._stepped: set[int] = set()
        wrapping.override(scaler, step=self._step, update=self._update)
        for each in transactions:
            each.scale = self._scale

    def _scale(self) -> Tensor | None:
        """Return the factor on the gradients, where it lies; None if there is none."""
        scale = getattr(self._scaler, "_scale", None)
        return scale if isinstance(scale, Tensor) and self._scaler.is_enabled() else None

    def _step(self, original: Callable[..., Any], optimizer: Optimizer, *arguments: Any, **keywords: Any) -> Any:
        transaction = next((each for each in self._transactions if each.optimizer is optimizer), None)
        if transaction is None:
            self._stepped.add(id(optimizer))
            return original(optimizer, *arguments, **keywords)
        if transaction.refused is not None and not transaction.refused.by_scaler:
            transaction.close(transaction.refused)
            return None
        self._stepped.add(id(optimizer))
        transaction.stepped = False
        result = original(optimizer, *arguments, **keywords)
        if not transaction.stepped:  # the scaler refused, and no optimizer hook was called
            if self._acts:
                transaction.buffers.restore()
            transaction.close(transaction.refused or ABANDONED)
        return result

    def _update(self, original: Callable[..., Any], new_scale: Any = None) -> Any:
        """Update the scale; if every step since the last time was refused by the guard, to what it is."""
        stepped, self._stepped = self._stepped, set()
        if new_scale is None and not stepped and self._scaler.is_enabled():
            new_scale = self._scaler.get_scale()
        return original(new_scale)
