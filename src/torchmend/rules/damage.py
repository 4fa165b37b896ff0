"""Rules on values that can never be right: not finite, or negative where that is impossible."""

from collections.abc import Iterator

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Finding, Measure
from torchmend.facts.tensors import Role, TensorRef
from torchmend.rules.evidence import Evidence, finding

_CODES = {
    Role.RUNNING_MEAN: Code.MEAN_NOT_FINITE,
    Role.RUNNING_VAR: Code.VARIANCE_NOT_FINITE,
    Role.WEIGHT: Code.WEIGHT_NOT_FINITE,
    Role.BIAS: Code.BIAS_NOT_FINITE,
    Role.FIRST_MOMENT: Code.FIRST_MOMENT_NOT_FINITE,
    Role.SECOND_MOMENT: Code.SECOND_MOMENT_NOT_FINITE,
    Role.OPTIMIZER_STEP: Code.OPTIMIZER_STATE_NOT_FINITE,
    Role.OPTIMIZER_STATE: Code.OPTIMIZER_STATE_NOT_FINITE,
    Role.METADATA: Code.METADATA_NOT_FINITE,
}


def not_finite(evidence: Evidence) -> Iterator[Finding]:
    """Find Inf and NaN."""
    for ref, measure in evidence.measured(*_CODES):
        if measure.nonfinite and not _is_mask(ref, measure):
            severity = Severity.NOTE if ref.role is Role.METADATA else Severity.ERROR
            yield finding(_code(evidence, ref), severity, ref, measure=measure)


def _code(evidence: Evidence, ref: TensorRef) -> Code:
    twin = evidence.live_twin(ref)
    if ref.averaged and ref.role.is_learned and twin is not None and evidence.is_sound(twin):
        return Code.AVERAGED_NOT_FINITE
    return _CODES[ref.role]


def _is_mask(ref: TensorRef, measure: Measure) -> bool:
    """Return whether the elements are 0 and -Inf only: an additive attention mask under some name of its own."""
    if ref.role is not Role.WEIGHT or ref.leaf == "weight":
        return False
    return bool(measure.zeros) and measure.zeros == measure.numel - measure.neg_inf


def nan_in_infinite_buffer(evidence: Evidence) -> Iterator[Finding]:
    """Find NaN in buffers in which infinities are legal."""
    for ref, measure in evidence.measured(Role.INFINITE_BUFFER):
        if measure.nan:
            yield finding(Code.WEIGHT_NOT_FINITE, Severity.ERROR, ref, measure=measure)


def negative(evidence: Evidence) -> Iterator[Finding]:
    """Find variances and second moments below zero."""
    for ref, measure in evidence.measured(Role.RUNNING_VAR, Role.SECOND_MOMENT):
        if (measure.negative or 0) - measure.neg_inf > 0:
            code = Code.VARIANCE_NEGATIVE if ref.role is Role.RUNNING_VAR else Code.SECOND_MOMENT_NEGATIVE
            yield finding(code, Severity.ERROR, ref, measure=measure)


def averaged_copy_is_sound(evidence: Evidence) -> Iterator[Finding]:
    """Point out damaged live weights of which the file has a sound averaged copy."""
    for ref, measure in evidence.measured(Role.WEIGHT, Role.BIAS):
        if not measure.nonfinite or ref.is_copy or _is_mask(ref, measure):
            continue
        copies = (*evidence.masters_of.get(ref.path, ()), *evidence.averaged_of.get(ref.path, ()))
        copy = next((each for each in copies if evidence.is_sound(each)), None)
        if copy is not None:
            yield finding(Code.LIVE_NOT_FINITE, Severity.NOTE, ref, detail=f"healthy copy: {copy.path}")
