"""Rules on optimizer state that is finite and still wrong, or unusual."""

from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np

from torchmend.facts.codes import Code, Severity
from torchmend.facts.dtypes import Kind
from torchmend.facts.findings import Finding
from torchmend.facts.tensors import Role, Scalar, TensorRef
from torchmend.rules.evidence import Evidence, finding

_SAME_SHAPE = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"}
"""Moments that have one element for each of their parameter's; others may be factored."""

_MOMENTS = (Role.FIRST_MOMENT, Role.SECOND_MOMENT)


def shapes(evidence: Evidence) -> Iterator[Finding]:
    """Find moments whose shape is not their parameter's."""
    for ref in evidence.refs:
        owner = evidence.by_path.get(ref.param or "") if ref.role in _MOMENTS else None
        if owner is not None and ref.leaf in _SAME_SHAPE and ref.shape != owner.shape:
            detail = f"{list(ref.shape)}, where {owner.path} has {list(owner.shape)}"
            yield finding(Code.MOMENT_SHAPE, Severity.WARNING, ref, detail=detail)


def narrow(evidence: Evidence) -> Iterator[Finding]:
    """Find moments with fewer bits than their parameter."""
    for ref, measure in evidence.measured(*_MOMENTS):
        owner = evidence.by_path.get(ref.param or "")
        if owner is None or owner.element.kind is not Kind.FLOAT or ref.element.itemsize >= owner.element.itemsize:
            continue
        risky = ref.role is Role.SECOND_MOMENT and ref.dtype == "float16"
        detail = f"{ref.dtype}, where {owner.path} is {owner.dtype}"
        yield finding(
            Code.MOMENT_NARROW, Severity.WARNING if risky else Severity.NOTE, ref, measure=measure, detail=detail
        )


def steps(evidence: Evidence) -> Iterator[Finding]:
    """Find step counters that contradict each other or the moments beside them."""
    moved = {
        (ref.container, ref.prefix) for ref, measure in evidence.measured(Role.SECOND_MOMENT) if measure.absmax > 0
    }
    by_optimizer: dict[str, list[tuple[TensorRef | Scalar, float]]] = defaultdict(list)
    for about, container, prefix, count in _steps(evidence):
        by_optimizer[container].append((about, count))
        if count < 0 or (count == 0 and (container, prefix) in moved):
            beside = ", beside moments that have moved" if count == 0 else ""
            yield finding(Code.STEP_COUNT, Severity.WARNING, about, detail=f"{count:,.0f}{beside}")
    for counters in by_optimizer.values():
        frequency = Counter(count for _, count in counters).most_common()
        if len(frequency) > 1:
            usual, number = frequency[0]
            odd, count = next((about, count) for about, count in counters if count != usual)
            detail = f"{count:,.0f} here, {usual:,.0f} in {number:,} of {len(counters):,} parameters"
            yield finding(Code.STEP_COUNT, Severity.NOTE, odd, detail=detail)


def _steps(evidence: Evidence) -> Iterator[tuple[TensorRef | Scalar, str, str, float]]:
    """Yield step counters: what holds it, the optimizer's container, the state's prefix there, the count."""
    containers = set()
    for ref in evidence.refs:
        if not ref.role.is_optimizer:
            continue
        containers.add(ref.container)
        count = evidence.number(ref) if ref.role is Role.OPTIMIZER_STEP else None
        if count is not None and np.isfinite(count):
            yield ref, ref.container, ref.prefix, count
    for scalar in evidence.scalars:
        if len(scalar.path) < 3 or scalar.path[-1] != "step" or scalar.path[-3] != "state":
            continue
        container = ".".join(map(str, scalar.path[:-3]))
        if container in containers and isinstance(scalar.value, int | float) and np.isfinite(scalar.value):
            yield scalar, container, f"state.{scalar.path[-2]}", float(scalar.value)
