"""What losses and gradient norms usually are, and whether what was learned has been lost: pure values."""

import math
from dataclasses import dataclass, replace

LEAST_SPREAD = 0.1
"""Of a logarithm: one part in ten. Of values that may be negative: the same part of their mean."""

MOST_MOVED, FEW = 4.0, 10

RECENT = 0.2
"""The weight of a value in the recent mean, which spans about five steps."""

LEARNED, LEARNED_SIGNED = 0.5, 2.0
"""How far a loss has to fall before anything counts as learned: its logarithm, or in deviations at the start."""

LOST = 0.9
"""The part of the fall that counts as lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """An exponentially weighted mean and variance of a logarithm, or of values that may be negative.

    Args:
        mean: Of the logarithms so far.
        variance: Of the same.
        count: How many there were.
        is_signed: Whether a value was negative, so that mean and variance are those of the values themselves.
    """

    mean: float = 0.0
    variance: float = 0.0
    count: int = 0
    is_signed: bool = False

    def deviation(self, value: float) -> float:
        """Return by how many standard deviations a value lies above the mean; 0 for one that cannot be measured.

        Deviations are no smaller than `LEAST_SPREAD`: a loss that stands still has next to none.
        """
        moved = self.measured(value) - self.mean
        return moved / self.spread if math.isfinite(moved) else 0.0

    @property
    def spread(self) -> float:
        """The standard deviation, no smaller than `LEAST_SPREAD`."""
        least = LEAST_SPREAD * max(abs(self.mean), LEAST_SPREAD) if self.is_signed else LEAST_SPREAD
        return max(math.sqrt(self.variance), least)

    def measured(self, value: float) -> float:
        """Return a value in the unit of the mean; NaN for one that has none."""
        if self.is_signed:
            return value
        return math.log(value) if value > 0 and math.isfinite(value) else math.nan

    def with_value(self, value: float, weight: float = 0.02) -> "Running":
        """Take in a value; one that has no measure is passed over: it cannot poison the rest.

        Once there are a few, none counts for more than `MOST_MOVED` deviations, so that it does not hide what follows.
        The first negative value begins anew.
        """
        if not self.is_signed and -math.inf < value < 0:
            return Running(is_signed=True).with_value(value)
        moved = self.measured(value) - self.mean
        if not math.isfinite(moved * moved):
            return self
        share = max(weight, 1 / (self.count + 1))
        if self.count >= FEW:
            moved = min(max(moved, -MOST_MOVED * self.spread), MOST_MOVED * self.spread)
        mean = self.mean + share * moved
        variance = (1 - share) * (self.variance + share * moved * moved)
        return replace(self, mean=mean, variance=variance, count=self.count + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """How far a loss has fallen since the start, and whether it is back where it began; in the unit of its `Running`.

    Args:
        start: The running mean when it had become one.
        least: By how much it has to fall before anything counts as learned.
        recent: The mean of the last steps.
        best: The lowest that this has been.
        lost: For how many steps in a row nearly all that had been learned is lost.
    """

    start: float = math.nan
    least: float = math.nan
    recent: float = math.nan
    best: float = math.nan
    lost: int = 0

    def with_value(self, value: float, running: Running, warm_up: int) -> "Learned":
        """Take in a loss.

        Args:
            value: As it is.
            running: What is usual, this loss not yet included.
            warm_up: Losses before there is a start.
        """
        now = running.measured(value)
        if running.count < warm_up:
            return Learned()
        if math.isnan(self.start):
            least = LEARNED_SIGNED * running.spread if running.is_signed else LEARNED
            return Learned(start=running.mean, least=least, recent=running.mean, best=running.mean)
        recent = self.recent + RECENT * (now - self.recent) if math.isfinite(now) else self.recent
        fall = self.start - self.best
        is_lost = fall > self.least and recent > self.start - (1 - LOST) * fall
        return replace(self, recent=recent, best=min(self.best, recent), lost=self.lost + 1 if is_lost else 0)
