"""The figures and the verdict that every report ends with."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from torchmend.facts.findings import Diagnosis, Finding
from torchmend.facts.tensors import Role


class Verdict(StrEnum):
    """One word on a file."""

    HEALTHY = "healthy"
    FIXABLE = "fixable"
    """Damaged, and everything that is damaged can be repaired from the file alone."""
    NEEDS_DONOR = "needs donor"
    """Damaged, and something of it must come from another checkpoint."""
    UNCHECKED = "unchecked"
    """Something could not be looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Counts of tensors, each counted once however many findings it has.

    Args:
        verdict: One word on the file.
        main_entries: Entries of the model's own container.
        entries: Entries of each container, by name.
        statistics: Damaged normalisation statistics.
        weights: Damaged weights and biases.
        optimizer: Damaged optimizer tensors.
    """

    verdict: Verdict
    main_entries: int
    entries: dict[str, int]
    statistics: int
    weights: int
    optimizer: int


def summarise(diagnosis: Diagnosis) -> Summary:
    """Count what a diagnosis found."""
    damaged = {f.ref for f in diagnosis.damaged if f.ref is not None and not f.code.means_unchecked}
    entries = Counter(ref.container for ref in diagnosis.refs)
    return Summary(
        verdict=_verdict(diagnosis),
        main_entries=entries[diagnosis.main],
        entries=dict(entries),
        statistics=sum(ref.role.is_statistic for ref in damaged),
        weights=sum(ref.role.is_learned or ref.role is Role.INFINITE_BUFFER for ref in damaged),
        optimizer=sum(ref.role.is_optimizer for ref in damaged),
    )


def _verdict(diagnosis: Diagnosis) -> Verdict:
    if not diagnosis.checked:
        return Verdict.UNCHECKED
    if not diagnosis.damaged:
        return Verdict.HEALTHY
    return Verdict.FIXABLE if all(map(is_fixable, diagnosis.damaged)) else Verdict.NEEDS_DONOR


def is_fixable(finding: Finding) -> bool:
    """Return whether a finding's tensor can be repaired from the file alone."""
    return (
        finding.ref is not None
        and not finding.code.means_unchecked
        and (finding.ref.role.is_statistic or finding.ref.role in (Role.FIRST_MOMENT, Role.SECOND_MOMENT))
    )
