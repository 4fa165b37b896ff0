"""All cases, by what goes wrong."""

from benchmarks.faults.case import Case
from benchmarks.faults.cases import averages, batchnorm, dynamics, gradients, losses, precision, runaway, saving

CASES: tuple[Case, ...] = (
    *batchnorm.CASES,
    *averages.CASES,
    *precision.CASES,
    *gradients.CASES,
    *runaway.CASES,
    *losses.CASES,
    *dynamics.CASES,
    *saving.CASES,
)
"""All, in the order of the page's rows."""
