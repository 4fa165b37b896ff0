"""One step of a loop, made explicit: `with guard.step() as step`."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from torchmend.live.guard.guard import Guard


class Step:
    """One step of a loop, made explicit.

    Args:
        guard: Which guard's.
    """

    def __init__(self, guard: "Guard") -> None:
        self._guard = guard

    def backward(self, loss: Tensor, batch: Any = None, **keywords: Any) -> None:
        """Observe the loss, and the batch it was made of, and go backward, through the scaler if there is one."""
        self._guard.observe(loss, batch)
        scaler = self._guard.scaler
        (loss if scaler is None else scaler.scale(loss)).backward(**keywords)

    @property
    def refused(self) -> bool:
        """Whether the step, as far as it went, will not happen."""
        return any(each.refused is not None for each in self._guard.transactions)
