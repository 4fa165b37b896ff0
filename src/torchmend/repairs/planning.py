"""A diagnosis in, a repair plan out: for each damaged tensor the best rung of the ladder that there is."""

from collections import defaultdict
from collections.abc import Container, Sequence
from dataclasses import replace
from enum import StrEnum

from torchmend.facts.codes import Code
from torchmend.facts.findings import Diagnosis, Finding
from torchmend.facts.plans import CopyDamaged, Edit, Refusal, RepairPlan, Rung
from torchmend.facts.sources import TensorSource, Vector
from torchmend.facts.tensors import Role, Scalar, TensorRef
from torchmend.repairs.donors import Donor, first_sound
from torchmend.repairs.metadata import plan_scalars, plan_scale
from torchmend.repairs.optimizers import MomentPlanner, plan_reset
from torchmend.repairs.statistics import StatisticsPlanner
from torchmend.rules.evidence import Evidence

_WHY = {
    Rung.MASTER: "of which this is a rounded copy",
    Rung.AVERAGED_COPY: "which follows the same training",
    Rung.LIVE_TWIN: "which follows the same training",
}
"""Why a copy in the same source may stand in."""

_NONE: frozenset[TensorRef | Scalar] = frozenset()


class Strategy(StrEnum):
    """How damaged statistics are repaired."""

    LADDER = "ladder"
    """Damaged channels only, from the best source there is."""
    RESET = "reset"
    """The classic recipe: the whole damaged statistic to mean 0 or variance 1."""


def plan_repair(
    diagnosis: Diagnosis,
    source: TensorSource,
    *,
    donors: Sequence[Donor] = (),
    strategy: Strategy = Strategy.LADDER,
    pinned: Container[TensorRef | Scalar] = _NONE,
    metadata: bool = False,
    reset_optimizer: bool = False,
) -> RepairPlan:
    """Plan the repair of everything that the diagnosis calls an error.

    Args:
        diagnosis: Of the same source.
        source: Where vectors can be fetched.
        donors: Tried in order.
        strategy: For statistics only.
        pinned: What cannot be written: it stands inside a pickle, or could not be read.
        metadata: Whether numbers beside the model (learning rates, metrics) are repaired too.
        reset_optimizer: Whether all optimizer state goes to where a fresh optimizer starts.

    Returns:
        Edits, and a refusal with its reason for each damage that no rung can repair.
    """
    planner = _Planner(diagnosis, source, donors, pinned, reset_optimizer=reset_optimizer)
    for finding in diagnosis.damaged:
        if finding.ref is not None:
            planner.plan(finding, finding.ref)
    planner.plan_statistics(strategy)
    if reset_optimizer:
        planner.plan_reset()
    scalars, refused = plan_scalars(diagnosis, metadata=metadata, pinned=pinned)
    return RepairPlan(
        source=diagnosis.source,
        edits=planner.finished(),
        scalars=tuple(scalars),
        refused=(*planner.refused.values(), *refused),
    )


class _Planner:
    """Collects the edits and refusals of one plan, each tensor once."""

    def __init__(
        self,
        diagnosis: Diagnosis,
        source: TensorSource,
        donors: Sequence[Donor],
        pinned: Container[TensorRef | Scalar],
        *,
        reset_optimizer: bool,
    ) -> None:
        self.main = diagnosis.main
        self.source = source
        self.donors = donors
        self.pinned = pinned
        self.resets = reset_optimizer
        self.evidence = Evidence(source)
        self.layers = [
            layer for layer in self.evidence.layers if layer.mean in source.measures and layer.var in source.measures
        ]
        self.of_layers = {ref for layer in self.layers for ref in (layer.mean, layer.var)}
        self.moments = MomentPlanner(source, pinned)
        self.edits: dict[TensorRef, Edit] = {}
        self.refused: dict[TensorRef | Scalar, Refusal] = {}
        self.statistics: list[TensorRef] = []
        self.codes: dict[TensorRef, list[Code]] = defaultdict(list)

    def plan(self, finding: Finding, ref: TensorRef) -> None:
        """Plan the repair of one damaged tensor."""
        if finding.code not in self.codes[ref]:
            self.codes[ref].append(finding.code)
        if finding.code.means_unchecked:
            self._refuse(ref, "it could not be read")
        elif self.resets and ref.role.is_optimizer:
            return
        elif ref in self.pinned:
            self._refuse(ref, "it stands inside the pickle, where nothing is patched")
        elif ref.role.is_statistic and ref not in self.of_layers:
            self._refuse(ref, "the other statistic of its layer could not be read")
        elif ref.role.is_statistic:
            self.statistics.append(ref)
        elif finding.code is Code.SCALER_BROKEN:
            self.edits[ref] = plan_scale(ref)
        elif ref.role in (Role.FIRST_MOMENT, Role.SECOND_MOMENT) and finding.measure is not None:
            self.moments.zero(ref, finding.measure)
        else:
            self._copy(finding, ref)

    def plan_statistics(self, strategy: Strategy) -> None:
        """Plan all damaged statistics together: variances serve as units for means."""
        if not self.statistics:
            return
        planner = StatisticsPlanner(self.source, self.layers, donors=self._donor_vector)
        reset = strategy is Strategy.RESET
        for edit in planner.reset(self.statistics) if reset else planner.plan(self.statistics):
            self.edits[edit.ref] = edit

    def plan_reset(self) -> None:
        """Plan a fresh start of every optimizer."""
        edits, refused = plan_reset(self.source, self.pinned)
        self.edits.update({edit.ref: edit for edit in edits})
        self.refused.update({each.about: each for each in refused})

    def finished(self) -> tuple[Edit, ...]:
        """Return the edits, each with the codes of the findings that it answers."""
        edits = {**self.edits, **self.moments.edits}
        return tuple(replace(edit, codes=tuple(self.codes.get(ref, ()))) for ref, edit in edits.items())

    def _refuse(self, ref: TensorRef, reason: str) -> None:
        self.refused[ref] = Refusal(about=ref, reason=reason)

    def _donor_vector(self, ref: TensorRef) -> tuple[str, Vector] | None:
        given = first_sound(self.donors, ref, self.main)
        return (given[0].name, given[0].source.vector(given[1])) if given else None

    def _copy(self, finding: Finding, ref: TensorRef) -> None:
        """Plan to copy the damaged elements of a weight: from its averaged copy or live twin, else from a donor."""
        twin, rung = self._sound_twin(ref)
        given = None if twin else first_sound(self.donors, ref, self.main)
        if twin is not None:
            change = CopyDamaged(source="", ref=twin)
            reason = f"taken from {twin.path} in the same file, {_WHY[rung]}"
        elif given is not None:
            change, rung = CopyDamaged(source=given[0].name, ref=given[1]), Rung.DONOR
            reason = f"the damaged elements are taken from {given[0].name}"
        else:
            self._refuse(ref, self._why_refused(ref))
            return
        count = finding.measure.nonfinite if finding.measure else 0
        exact = rung is Rung.MASTER
        self.edits[ref] = Edit(ref=ref, change=change, count=count, rung=rung, approximate=not exact, reason=reason)

    def _sound_twin(self, ref: TensorRef) -> tuple[TensorRef | None, Rung]:
        if not ref.role.is_learned:
            return None, Rung.DONOR
        evidence = self.evidence
        if ref.is_copy:
            twin = evidence.live_twin(ref)
            return (twin if twin is not None and evidence.is_sound(twin) else None), Rung.LIVE_TWIN
        for copies, rung in ((evidence.masters_of, Rung.MASTER), (evidence.averaged_of, Rung.AVERAGED_COPY)):
            for copy in copies.get(ref.path, ()):
                if evidence.is_sound(copy):
                    return copy, rung
        return None, Rung.DONOR

    def _why_refused(self, ref: TensorRef) -> str:
        if not self.donors:
            article = "an" if ref.role.is_optimizer else "a"
            return f"{article} {ref.role.value} cannot be invented; name a healthy checkpoint with --donor"
        return f"no donor has a healthy {ref.name} of shape {list(ref.shape)} and type {ref.dtype}"
