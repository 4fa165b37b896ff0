"""Plans for numbers beside the tensors: loss scale, learning rates, best metrics, losses."""

import math
from collections.abc import Container, Iterable

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Diagnosis, Finding
from torchmend.facts.plans import Edit, FillAll, Refusal, Rung, ScalarEdit
from torchmend.facts.tensors import Scalar, TensorRef
from torchmend.rules.metadata import direction

FRESH_SCALE = 65536.0
"""torch's `GradScaler(init_scale=2**16)`."""

_FRESH_REASON = "torch's own initial scale; the scaler finds its level again within some steps"
_WORST_REASON = "the worst value there is, so that the next finite result wins"
_ON_REQUEST = (Code.LEARNING_RATE, Code.BEST_METRIC, Code.LOSS_NOT_FINITE)

Planned = ScalarEdit | Refusal


def plan_scale(ref: TensorRef) -> Edit:
    """Plan a fresh loss scale that is stored as a tensor."""
    return Edit(ref=ref, change=FillAll(value=FRESH_SCALE), count=1, rung=Rung.FRESH, reason=_FRESH_REASON)


def plan_scalars(
    diagnosis: Diagnosis, *, metadata: bool, pinned: Container[TensorRef | Scalar]
) -> tuple[list[ScalarEdit], list[Refusal]]:
    """Plan what is to become of the scalars that the diagnosis found.

    Args:
        diagnosis: Findings and scalars.
        metadata: Whether learning rates, metrics and losses are to be repaired, and not the loss scale alone.
        pinned: What cannot be written.
    """
    planned: dict[Scalar, Planned] = {}
    for finding in diagnosis.findings:
        if finding.scalar is None or not (metadata or finding.severity is Severity.ERROR):
            continue
        for scalar in _meant(finding, diagnosis.scalars):
            if (one := _plan(finding, scalar, diagnosis.scalars, metadata, pinned)) is not None:
                planned.setdefault(scalar, one)
    edits = [one for one in planned.values() if isinstance(one, ScalarEdit)]
    return edits, [one for one in planned.values() if isinstance(one, Refusal)]


def _meant(finding: Finding, scalars: Iterable[Scalar]) -> list[Scalar]:
    """Return the scalars that a finding is about: of a history it names the first only."""
    first = finding.scalar
    assert first is not None
    if finding.code not in _ON_REQUEST or not first.path or not isinstance(first.path[-1], int):
        return [first]
    return [s for s in scalars if s.path[:-1] == first.path[:-1] and _is_bad(s)]


def _is_bad(scalar: Scalar) -> bool:
    return isinstance(scalar.value, float) and not math.isfinite(scalar.value)


def _plan(
    finding: Finding,
    scalar: Scalar,
    scalars: tuple[Scalar, ...],
    metadata: bool,
    pinned: Container[TensorRef | Scalar],
) -> Planned | None:
    if finding.code in _ON_REQUEST and not metadata:
        return Refusal(about=scalar, reason="numbers beside the model are repaired only with --metadata")
    match finding.code:
        case Code.SCALER_BROKEN if finding.severity is Severity.ERROR:
            value, rung, reason = FRESH_SCALE, Rung.FRESH, _FRESH_REASON
        case Code.LEARNING_RATE:
            twin = _same_rate(scalar, scalars)
            if twin is None:
                return Refusal(about=scalar, reason="the file holds no finite learning rate; set it after loading")
            value, rung, reason = float(twin.value), Rung.SAME_FILE, f"taken from {twin.dotted}"
        case Code.BEST_METRIC | Code.LOSS_NOT_FINITE if direction(scalar):
            value, rung, reason = -direction(scalar) * math.inf, Rung.WORST, _WORST_REASON
            if scalar.value == value:
                return None
        case Code.BEST_METRIC | Code.LOSS_NOT_FINITE:
            return Refusal(about=scalar, reason="its name does not tell whether lower or higher is better")
        case _:
            return None
    if scalar in pinned:
        return Refusal(about=scalar, reason="it is stored in a form that is not patched; set it after loading")
    return ScalarEdit(scalar=scalar, value=value, rung=rung, reason=reason, codes=(finding.code,))


def _same_rate(scalar: Scalar, scalars: tuple[Scalar, ...]) -> Scalar | None:
    """Find a finite learning rate for the same parameter group: the scheduler's last, then the initial one."""
    group = next((key for key in reversed(scalar.path) if isinstance(key, int)), 0)
    for wanted in ("_last_lr", "lr", "initial_lr", "base_lrs"):
        for other in scalars:
            index = next((key for key in reversed(other.path) if isinstance(key, int)), 0)
            if other.leaf == wanted and index == group and other.path != scalar.path and _is_rate(other):
                return other
    return None


def _is_rate(scalar: Scalar) -> bool:
    return isinstance(scalar.value, int | float) and math.isfinite(scalar.value) and scalar.value >= 0
