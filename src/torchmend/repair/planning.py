"""A diagnosis in, a repair plan out: for each damaged tensor the best rung of the ladder that there is."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from torchmend.facts.findings import Diagnosis, Finding, Measure
from torchmend.facts.plans import CopyDamaged, Edit, FillDamaged, Refusal, RepairPlan, Rung
from torchmend.facts.sources import TensorSource
from torchmend.facts.tensors import Role, TensorRef
from torchmend.repair.statistics import StatisticsPlanner
from torchmend.rules.layers import norm_layers
from torchmend.rules.roles import plain_name


class Strategy(StrEnum):
    """How damaged statistics are repaired."""

    LADDER = "ladder"
    """Damaged channels only, from the best source there is."""
    RESET = "reset"
    """The classic recipe: the whole damaged statistic to mean 0 or variance 1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Donor:
    """A healthy source of the same model."""

    name: str
    source: TensorSource
    main: str

    def find(self, ref: TensorRef, main: str) -> TensorRef | None:
        """Return the donor's tensor for one of the patient's: same place, else same plain name in the model.

        Args:
            ref: The patient's tensor.
            main: The patient's model container.
        """
        fitting = [r for r in self.source.refs if r.shape == ref.shape and r.dtype == ref.dtype]
        exact = [r for r in fitting if r.path == ref.path]
        if exact or ref.container != main:
            return exact[0] if exact else None
        wanted = plain_name(ref.name)
        same = (r for r in fitting if r.container == self.main and plain_name(r.name) == wanted)
        return next(same, None)

    def is_sound(self, ref: TensorRef) -> bool:
        """Return whether the donor's own tensor is undamaged."""
        measure = self.source.measures.get(ref)
        return measure is not None and not _bad(ref, measure)


def _bad(ref: TensorRef, measure: Measure) -> bool:
    return bool(measure.nonfinite or (ref.role.is_nonnegative and measure.negative))


def plan_repair(
    diagnosis: Diagnosis,
    source: TensorSource,
    *,
    donors: Sequence[Donor] = (),
    strategy: Strategy = Strategy.LADDER,
    pinned: frozenset[TensorRef] = frozenset(),
) -> RepairPlan:
    """Plan the repair of everything that the diagnosis calls an error.

    Args:
        diagnosis: Of the same source.
        source: Where vectors can be fetched.
        donors: Tried in order.
        strategy: For statistics only.
        pinned: Tensors that cannot be written (they stand inside a pickle, or could not be read).

    Returns:
        Edits, and a refusal with its reason for each damaged tensor that no rung can repair.
    """
    planner = _Planner(diagnosis, source, donors, pinned)
    edits: dict[TensorRef, Edit] = {}
    refused: dict[TensorRef, Refusal] = {}
    statistics: list[TensorRef] = []
    for finding in diagnosis.damaged:
        ref = finding.ref
        assert ref is not None
        if finding.code.means_unchecked:
            refused[ref] = Refusal(about=ref, reason="it could not be read")
        elif ref in pinned:
            refused[ref] = Refusal(about=ref, reason="it stands inside the pickle, where nothing is patched")
        elif ref.role.is_statistic:
            statistics.append(ref)
        else:
            planner.plan(finding, edits, refused)
    if statistics:
        layers = norm_layers(source.refs)
        stats = StatisticsPlanner(source, layers, donors=planner.donor_vectors)
        for edit in stats.reset(statistics) if strategy is Strategy.RESET else stats.plan(statistics):
            edits[edit.ref] = edit
    return RepairPlan(source=diagnosis.source, edits=tuple(edits.values()), refused=tuple(refused.values()))


class _Planner:
    """Plans everything that is not a running statistic."""

    def __init__(
        self, diagnosis: Diagnosis, source: TensorSource, donors: Sequence[Donor], pinned: frozenset[TensorRef]
    ) -> None:
        self.main = diagnosis.main
        self.donors = donors
        self.moments = {
            (ref.container, ref.prefix): ref
            for ref in source.refs
            if ref.role is Role.FIRST_MOMENT and ref not in pinned
        }

    def donor_vectors(self, ref: TensorRef) -> tuple[str, TensorSource, TensorRef] | None:
        """Return the first donor with a sound tensor for this one."""
        for donor in self.donors:
            match = donor.find(ref, self.main)
            if match is not None and donor.is_sound(match):
                return donor.name, donor.source, match
        return None

    def plan(self, finding: Finding, edits: dict[TensorRef, Edit], refused: dict[TensorRef, Refusal]) -> None:
        ref, measure = finding.ref, finding.measure
        assert ref is not None
        assert measure is not None
        if ref.role in (Role.FIRST_MOMENT, Role.SECOND_MOMENT):
            self._zero_moment(ref, measure, edits)
            return
        given = self.donor_vectors(ref)
        if given is None:
            refused[ref] = Refusal(about=ref, reason=self._why_refused(ref))
            return
        name, _, match = given
        edits[ref] = Edit(
            ref=ref,
            change=CopyDamaged(source=name, ref=match),
            count=measure.nonfinite,
            rung=Rung.DONOR,
            approximate=True,
            reason=f"the damaged elements are taken from {name}",
        )

    def _zero_moment(self, ref: TensorRef, measure: Measure, edits: dict[TensorRef, Edit]) -> None:
        count = measure.nonfinite
        if ref.role.is_nonnegative:
            count += (measure.negative or 0) - measure.neg_inf
        earlier = edits.get(ref)
        edits[ref] = Edit(
            ref=ref,
            change=earlier.change if earlier else FillDamaged(value=0.0),
            count=max(count, earlier.count if earlier else 0),
            rung=Rung.ZEROED,
            reason="zero is where the optimizer starts; it rebuilds the moment within tens of steps",
        )
        partner = self.moments.get((ref.container, ref.prefix))
        if ref.role is Role.SECOND_MOMENT and partner is not None and partner.shape == ref.shape:
            self._zero_with(partner, ref, count, edits)

    def _zero_with(self, partner: TensorRef, ref: TensorRef, count: int, edits: dict[TensorRef, Edit]) -> None:
        """Zero a first moment where its second moment is damaged: m over sqrt(0) would be a huge step."""
        earlier = edits.get(partner)
        also = earlier.change.also if earlier and isinstance(earlier.change, FillDamaged) else ()
        edits[partner] = Edit(
            ref=partner,
            change=FillDamaged(value=0.0, also=tuple(dict.fromkeys((*also, ref)))),
            count=max(count, earlier.count if earlier else 0),
            rung=Rung.ZEROED,
            reason="starts afresh with its second moment: momentum over a second moment of zero would be a huge step",
        )

    def _why_refused(self, ref: TensorRef) -> str:
        if not self.donors:
            article = "an" if ref.role.is_optimizer else "a"
            return f"{article} {ref.role.value} cannot be invented; name a healthy checkpoint with --donor"
        return f"no donor has a healthy {ref.name} of shape {list(ref.shape)} and type {ref.dtype}"
