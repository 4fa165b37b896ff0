"""Repair a live model or dictionary in place: plan, write only the damaged elements, look again."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchmend.facts.errors import UserError
from torchmend.facts.findings import Diagnosis
from torchmend.facts.plans import CopyDamaged, Edit, FillDamaged, RepairPlan
from torchmend.facts.sources import TensorSource
from torchmend.live.diagnosing import diagnose_source, open_live
from torchmend.live.source import LiveSource
from torchmend.repairs.donors import Donor
from torchmend.repairs.patches import Patch, patches
from torchmend.repairs.planning import Strategy, plan_repair
from torchmend.rules.roles import main_container


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairResult:
    """What a repair of a live object came to.

    Args:
        before: The diagnosis before it.
        plan: What was, or would be, written, and what is left alone.
        after: The diagnosis after it; None for a dry run.
        metric_before: What the evaluation function gave before; None without one.
        metric_after: The same after.
    """

    before: Diagnosis
    plan: RepairPlan
    after: Diagnosis | None = None
    metric_before: float | None = None
    metric_after: float | None = None

    @property
    def succeeded(self) -> bool:
        """Whether a healthy object is at hand."""
        return self.after is not None and self.after.healthy


def repair_live(
    source: Any,
    optimizer: Any = None,
    *,
    donors: Sequence[Any] = (),
    strategy: Strategy = Strategy.LADDER,
    dry_run: bool = False,
    metadata: bool = False,
    reset_optimizer: bool = False,
    evaluate: Callable[[], float] | None = None,
) -> RepairResult:
    """Repair a live model or dictionary in place.

    Everything that can be repaired is written; what cannot is listed under `plan.refused` and stays as it is.

    Args:
        source: A module, or a dictionary as checkpoints are.
        optimizer: Whose state is repaired too.
        donors: Modules, dictionaries or opened `Donor`s of the same model, tried in order.
        strategy: For normalisation statistics.
        dry_run: Plan only.
        metadata: Whether numbers beside the model (learning rates, metrics) are repaired too.
        reset_optimizer: Whether all optimizer state goes to where a fresh optimizer starts.
        evaluate: Gives a metric of the object as it is; called before and after.

    Raises:
        TypeError: An argument is of another kind.
        UserError: The damaged object is named as its own donor.
    """
    live = open_live(source, optimizer)
    before = diagnose_source(live)
    givers = [_donor(donor, at, source) for at, donor in enumerate(donors, start=1)]
    plan = plan_repair(
        before,
        live,
        donors=givers,
        strategy=strategy,
        pinned=live.pinned,
        metadata=metadata,
        reset_optimizer=reset_optimizer,
    )
    metric = None if evaluate is None else float(evaluate())
    if dry_run:
        return RepairResult(before=before, plan=plan, metric_before=metric)
    if plan.is_empty:
        return RepairResult(before=before, plan=plan, after=before, metric_before=metric, metric_after=metric)
    apply_plan(plan, live, {giver.name: giver.source for giver in givers})
    return RepairResult(
        before=before,
        plan=plan,
        after=diagnose_source(open_live(source, optimizer)),
        metric_before=metric,
        metric_after=None if evaluate is None else float(evaluate()),
    )


def _donor(donor: Any, number: int, patient: Any) -> Donor:
    if isinstance(donor, Donor):
        return donor
    if donor is patient:
        raise UserError("The damaged object is named as its own donor. Pass a healthy model or state dict instead.")
    opened = open_live(donor)
    return Donor(name=f"donor {number}", source=opened, main=main_container(opened.refs))


def apply_plan(plan: RepairPlan, live: LiveSource, donors: Mapping[str, TensorSource]) -> None:
    """Write a plan's edits in place.

    New values are worked out from the elements as they were when the plan was made. What an edit reads of
    other tensors that the plan writes too is therefore read before the first write.

    Args:
        plan: Made for this source.
        live: Where to write.
        donors: The sources that the plan's copies name.
    """
    edits = list({edit.ref.storage: edit for edit in reversed(plan.edits)}.values())[::-1]
    written = {live.memory(edit.ref) for edit in edits}
    early: dict[Hashable, list[Patch]] = {
        edit.ref.storage: list(patches(edit, live, donors)) for edit in edits if _reads(edit, live) & written
    }
    for edit in edits:
        for index, raw in early.get(edit.ref.storage) or patches(edit, live, donors):
            live.write(edit.ref, index, raw)
    for scalar in plan.scalars:
        live.set_scalar(scalar.scalar, scalar.value)


def _reads(edit: Edit, live: LiveSource) -> set[Hashable]:
    """Return the memory of other tensors of the same source that an edit reads."""
    match edit.change:
        case FillDamaged(also=others):
            return {live.memory(ref) for ref in others}
        case CopyDamaged(source="", ref=ref):
            return {live.memory(ref)}
    return set()
