"""All cases, by what goes wrong."""

from benchmarks.faults.case import Case
from benchmarks.faults.cases import batchnorm, gradients, precision

CASES: tuple[Case, ...] = (*batchnorm.CASES, *precision.CASES, *gradients.CASES)
"""All, in the order of the page's rows."""
