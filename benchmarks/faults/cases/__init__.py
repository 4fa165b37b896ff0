"""All cases, by what goes wrong."""

from dataclasses import replace

from benchmarks.faults.case import Case
from benchmarks.faults.cases import averages, batchnorm, dynamics, gradients, losses, precision, runaway, saving
from benchmarks.faults.truths import TRUTHS

_MADE = (
    *batchnorm.CASES,
    *averages.CASES,
    *precision.CASES,
    *gradients.CASES,
    *runaway.CASES,
    *losses.CASES,
    *dynamics.CASES,
    *saving.CASES,
)

CASES: tuple[Case, ...] = tuple(replace(each, truth=TRUTHS[each.name]) for each in _MADE)
"""All, in the order of the page's rows."""
