"""Measures -> findings. Every rule is a pure function of one tensor and what was measured of it."""

from collections.abc import Callable, Mapping, Sequence

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Finding, Measure
from torchmend.facts.tensors import Role, TensorRef
from torchmend.rules.texts import TEXTS

Rule = Callable[[TensorRef, Measure], Finding | None]


def judge(refs: Sequence[TensorRef], measures: Mapping[TensorRef, Measure]) -> tuple[Finding, ...]:
    """Apply every rule to every tensor that was measured.

    Returns:
        Findings in the order of severity, then code, then the source's.
    """
    findings = [
        finding
        for ref in refs
        if (measure := measures.get(ref)) is not None
        for rule in RULES
        if (finding := rule(ref, measure)) is not None
    ]
    return tuple(sorted(findings, key=lambda f: (-f.severity, f.code)))


def needs_counting(ref: TensorRef) -> bool:
    """Return whether the rules want a tensor counted in full even if the screen finds it finite."""
    return ref.role.is_statistic


def _finding(code: Code, ref: TensorRef, measure: Measure, severity: Severity) -> Finding:
    text = TEXTS[code]
    return Finding(code=code, severity=severity, message=text.consequence, remedy=text.remedy, ref=ref, measure=measure)


def _nonfinite(ref: TensorRef, measure: Measure) -> Finding | None:
    code = _NONFINITE_CODES.get(ref.role)
    if code is None or measure.nonfinite == 0 or _is_mask(ref, measure):
        return None
    severity = Severity.NOTE if ref.role is Role.METADATA else Severity.ERROR
    return _finding(code, ref, measure, severity)


_NONFINITE_CODES = {
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


def _is_mask(ref: TensorRef, measure: Measure) -> bool:
    """Return whether the elements are 0 and -Inf only: an additive attention mask under some name of its own."""
    if ref.role is not Role.WEIGHT or ref.leaf == "weight":
        return False
    return bool(measure.zeros) and measure.zeros == measure.numel - measure.neg_inf


def _nan_in_infinite_buffer(ref: TensorRef, measure: Measure) -> Finding | None:
    if ref.role is not Role.INFINITE_BUFFER or measure.nan == 0:
        return None
    return _finding(Code.WEIGHT_NOT_FINITE, ref, measure, Severity.ERROR)


def _negative(ref: TensorRef, measure: Measure) -> Finding | None:
    finite_negative = (measure.negative or 0) - measure.neg_inf
    if not ref.role.is_nonnegative or finite_negative <= 0:
        return None
    code = Code.VARIANCE_NEGATIVE if ref.role is Role.RUNNING_VAR else Code.SECOND_MOMENT_NEGATIVE
    return _finding(code, ref, measure, Severity.ERROR)


RULES: tuple[Rule, ...] = (_nonfinite, _nan_in_infinite_buffer, _negative)
