"""A measured source in, findings out. Every rule is a pure function of the evidence."""

from collections.abc import Callable, Iterator

from torchmend.facts.findings import Finding
from torchmend.facts.sources import TensorSource
from torchmend.rules import damage, metadata, optimizers, statistics, weights
from torchmend.rules.evidence import Evidence

Rule = Callable[[Evidence], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    damage.not_finite,
    damage.nan_in_infinite_buffer,
    damage.negative,
    damage.averaged_copy_is_sound,
    statistics.collapsed,
    statistics.outlying,
    statistics.batch_counts,
    statistics.never_moved,
    statistics.half_precision,
    statistics.beyond_half,
    weights.constant,
    weights.beyond_range,
    optimizers.shapes,
    optimizers.narrow,
    optimizers.steps,
    metadata.scaler,
    metadata.learning_rates,
    metadata.metrics,
)


def judge(source: TensorSource) -> tuple[Finding, ...]:
    """Apply every rule to a source that has been measured.

    Returns:
        Findings in the order of severity, then code, then the source's.
    """
    evidence = Evidence(source)
    order = {ref: at for at, ref in enumerate(source.refs)}
    found = [each for rule in RULES for each in rule(evidence)]
    return tuple(sorted(found, key=lambda f: (-f.severity, f.code, order.get(f.ref, len(order)) if f.ref else -1)))
