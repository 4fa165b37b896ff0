"""The figures and the verdict that every report ends with."""

import shlex
from collections import Counter
from dataclasses import dataclass
from enum import Enum, StrEnum

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Diagnosis, Finding
from torchmend.facts.tensors import Role, TensorRef
from torchmend.rules.texts import TEXTS


class Verdict(StrEnum):
    """One word on a file."""

    HEALTHY = "healthy"
    FIXABLE = "fixable"
    """Damaged, and everything that is damaged can be repaired from the file alone."""
    NEEDS_DONOR = "needs donor"
    """Damaged, and something of it must come from another checkpoint."""
    UNTRUSTED = "do not trust"
    """Something is wrong with the file itself, which no repair of numbers can mend."""
    UNCHECKED = "unchecked"
    """Something could not be looked at."""


class Cure(Enum):
    """What it takes to repair what one finding is about."""

    FILE = "fixable"
    METADATA = "fixable with --metadata"
    DONOR = "needs a donor"
    NONE = ""
    """No command mends it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Counts of tensors, each counted once however many findings it has.

    Args:
        verdict: One word on the file.
        main_entries: Entries of the model's own container.
        entries: Entries of each container, by name.
        statistics: Damaged normalisation statistics.
        weights: Damaged weights and biases.
        from_donor: Damaged weights and biases that the file has no sound copy of.
        optimizer: Damaged optimizer tensors.
        metadata: Damaged numbers beside the model: loss scale, learning rates.
    """

    verdict: Verdict
    main_entries: int
    entries: dict[str, int]
    statistics: int
    weights: int
    from_donor: int
    optimizer: int
    metadata: int


def summarise(diagnosis: Diagnosis) -> Summary:
    """Count what a diagnosis found."""
    found = [f for f in diagnosis.damaged if f.code.family != "TM9"]
    damaged = {f.ref for f in found if f.ref is not None}
    weights = {ref for ref in damaged if ref.role.is_learned or ref.role is Role.INFINITE_BUFFER}
    copied = sound_copies(diagnosis)
    entries = Counter(ref.container for ref in diagnosis.refs)
    return Summary(
        verdict=_verdict(diagnosis, copied),
        main_entries=entries[diagnosis.main],
        entries=dict(entries),
        statistics=sum(ref.role.is_statistic for ref in damaged),
        weights=len(weights),
        from_donor=len(weights & {f.ref for f in found if cure(f, copied) is Cure.DONOR}),
        optimizer=sum(ref.role.is_optimizer for ref in damaged),
        metadata=len({f.place for f in found if f.scalar or (f.ref and f.ref.role is Role.SCALER_STATE)}),
    )


def _verdict(diagnosis: Diagnosis, copied: frozenset[TensorRef]) -> Verdict:
    if not diagnosis.checked:
        return Verdict.UNCHECKED
    if any(f.code.family == "TM9" and f.severity is Severity.ERROR for f in diagnosis.findings):
        return Verdict.UNTRUSTED
    cures = {cure(finding, copied) for finding in diagnosis.damaged}
    if not cures:
        return Verdict.HEALTHY
    return Verdict.FIXABLE if cures <= {Cure.FILE, Cure.METADATA} else Verdict.NEEDS_DONOR


def sound_copies(diagnosis: Diagnosis) -> frozenset[TensorRef]:
    """Return the damaged weights whose averaged copy in the same file is sound."""
    return frozenset(f.ref for f in diagnosis.findings if f.code is Code.LIVE_NOT_FINITE and f.ref is not None)


def cure(finding: Finding, copied: frozenset[TensorRef] = frozenset()) -> Cure:
    """Return what it takes to repair what an error is about.

    Args:
        finding: Any finding; for notes and warnings, and for the file itself, there is no cure.
        copied: What `sound_copies` gives for the whole diagnosis.
    """
    ref, scalar = finding.ref, finding.scalar
    if finding.severity is not Severity.ERROR or finding.code.family == "TM9":
        return Cure.NONE
    if scalar is not None:
        if scalar.place is None:
            return Cure.NONE
        return Cure.FILE if finding.code is Code.SCALER_BROKEN else Cure.METADATA
    if ref is None:
        return Cure.NONE
    from_file = (
        ref.role.is_statistic
        or ref.role in (Role.FIRST_MOMENT, Role.SECOND_MOMENT)
        or finding.code in (Code.AVERAGED_NOT_FINITE, Code.SCALER_BROKEN)
        or ref in copied
    )
    return Cure.FILE if from_file else Cure.DONOR


def is_fixable(finding: Finding, copied: frozenset[TensorRef] = frozenset()) -> bool:
    """Return whether what a finding is about can be repaired from the file alone."""
    return cure(finding, copied) in (Cure.FILE, Cure.METADATA)


def remedy(finding: Finding, copied: frozenset[TensorRef] = frozenset()) -> str:
    """Return what to do about a finding; a weight with a sound copy in the file need not come from a donor."""
    if finding.ref in copied and cure(finding) is Cure.DONOR:
        return TEXTS[Code.LIVE_NOT_FINITE].remedy
    return finding.remedy


def next_command(diagnosis: Diagnosis) -> str | None:
    """Return the command to type next, quoted for a shell, if there is one."""
    if _verdict(diagnosis, copied := sound_copies(diagnosis)) not in (Verdict.FIXABLE, Verdict.NEEDS_DONOR):
        return None
    cures = {cure(finding, copied) for finding in diagnosis.damaged} - {Cure.NONE}
    if not cures:
        return None
    source = f"./{diagnosis.source}" if diagnosis.source.startswith("-") else diagnosis.source
    donor = " --donor OTHER_CHECKPOINT" if Cure.DONOR in cures else ""
    metadata = " --metadata" if Cure.METADATA in cures else ""
    return f"torchmend fix {shlex.quote(source)}{donor}{metadata}"
