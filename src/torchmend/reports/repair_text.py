"""A repair, or the plan of one, as a report for a terminal."""

from collections.abc import Iterator

from torchmend.facts.plans import Edit, RepairPlan, Rung, ScalarEdit
from torchmend.facts.tensors import Scalar, TensorRef
from torchmend.reports.wording import Paint, counted, place, plain, shown_value

MOST_EDITS = 20
_FROM = {
    Rung.AVERAGED_COPY: "from an averaged copy",
    Rung.LIVE_TWIN: "from its live twin, in this file",
    Rung.DONOR: "from a donor",
    Rung.SAME_FILE: "from another place in the same file",
}


def plan_text(plan: RepairPlan, paint: Paint = plain) -> str:
    """Render what a plan writes and what it refuses, without a final newline."""
    lines = [f"Repair plan for {plan.source}"]
    written = [_edit(edit, paint) for edit in plan.edits] + [_scalar_edit(edit, paint) for edit in plan.scalars]
    for block in written[:MOST_EDITS]:
        lines += ["", *block]
    if len(written) > MOST_EDITS:
        lines += ["", f"  and {len(written) - MOST_EDITS:,} more; --format json lists all"]
    if plan.refused:
        lines += ["", f"  {paint('REFUSED', 'red')}"]
        lines += [f"    {_refused(refusal.about)}: {refusal.reason}" for refusal in plan.refused[:MOST_EDITS]]
        if len(plan.refused) > MOST_EDITS:
            lines.append(f"    and {len(plan.refused) - MOST_EDITS:,} more; --format json lists all")
    return "\n".join(lines)


def _edit(edit: Edit, paint: Paint) -> Iterator[str]:
    yield f"  {paint(place(edit.ref), 'bold')}"
    yield f"    {counted(edit.count, 'element')} of {edit.ref.numel:,}: {paint(_source(edit.rung), 'cyan')}"
    if edit.reason:
        yield f"    {edit.reason}"
    if edit.error is not None:
        yield f"    estimated error of the layer's normalised output: {edit.error:.2g} standard deviations"
    if edit.approximate:
        then = "" if edit.rung is Rung.DATA else ", and recalibrate on data if you can"
        yield f"    {paint('approximate', 'yellow')}: check the metric{then}"


def _scalar_edit(edit: ScalarEdit, paint: Paint) -> Iterator[str]:
    change = f"{shown_value(edit.scalar.value)} -> {shown_value(edit.value)}"
    yield f"  {paint(place(edit.scalar), 'bold')}: {change}"
    yield f"    {paint(_source(edit.rung), 'cyan')}: {edit.reason}"


def _source(rung: Rung) -> str:
    return _FROM.get(rung, rung.value)


def _refused(about: TensorRef | Scalar) -> str:
    value = f" = {shown_value(about.value)}" if isinstance(about, Scalar) else ""
    return f"{place(about)}{value}"
