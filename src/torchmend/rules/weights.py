"""Rules on weights that are finite and still unusual."""

from collections.abc import Iterator

from torchmend.facts.codes import Code, Severity
from torchmend.facts.dtypes import DTYPES
from torchmend.facts.findings import Finding, Measure
from torchmend.facts.tensors import Role, TensorRef
from torchmend.measure.bits import largest_finite
from torchmend.rules.evidence import Evidence, finding

FEWEST_ELEMENTS = 16
"""Smaller matrices may be constant by chance or by purpose."""

_HALF = largest_finite(DTYPES["float16"])
_BFLOAT16 = largest_finite(DTYPES["bfloat16"])


def may_be_constant(ref: TensorRef) -> bool:
    """Return whether equal elements would be worth a remark: in matrices, not in vectors."""
    return ref.role is Role.WEIGHT and not ref.is_copy and len(ref.shape) >= 2 and ref.numel >= FEWEST_ELEMENTS


def constant(evidence: Evidence) -> Iterator[Finding]:
    """Find matrices whose elements are all equal."""
    for ref, measure in evidence.measured(Role.WEIGHT):
        if not may_be_constant(ref) or measure.nonfinite:
            continue
        if measure.absmax == 0:
            yield finding(Code.WEIGHT_ALL_ZERO, Severity.NOTE, ref, measure=measure)
        elif measure.minimum is not None and measure.minimum == measure.maximum:
            detail = f"every element is {measure.minimum:.6g}"
            yield finding(Code.WEIGHT_CONSTANT, Severity.NOTE, ref, measure=measure, detail=detail)


def beyond_range(evidence: Evidence) -> Iterator[Finding]:
    """Find weights and biases that narrower types cannot hold."""
    for ref, measure in evidence.measured(Role.WEIGHT, Role.BIAS):
        if measure.nonfinite:
            continue
        if measure.absmax > _BFLOAT16:
            yield _beyond(Code.WEIGHT_BEYOND_BFLOAT16, Severity.WARNING, ref, measure)
        elif measure.absmax > _HALF:
            yield _beyond(Code.WEIGHT_BEYOND_HALF, Severity.NOTE, ref, measure)


def _beyond(code: Code, severity: Severity, ref: TensorRef, measure: Measure) -> Finding:
    return finding(code, severity, ref, measure=measure, detail=f"largest magnitude {measure.absmax:.3g}")
