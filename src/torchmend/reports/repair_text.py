"""A repair, or the plan of one, as a report for a terminal."""

from collections.abc import Iterator

from torchmend.facts.plans import Edit, RepairPlan, Rung
from torchmend.reports.wording import Paint, counted, place, plain

MOST_EDITS = 20
_FROM = {Rung.AVERAGED_COPY: "from an averaged copy", Rung.DONOR: "from a donor"}


def plan_text(plan: RepairPlan, paint: Paint = plain) -> str:
    """Render what a plan writes and what it refuses, without a final newline."""
    lines = [f"Repair plan for {plan.source}"]
    for edit in plan.edits[:MOST_EDITS]:
        lines += ["", *_edit(edit, paint)]
    if len(plan.edits) > MOST_EDITS:
        lines += ["", f"  and {len(plan.edits) - MOST_EDITS} more; --format json lists all"]
    if plan.refused:
        lines += ["", f"  {paint('REFUSED', 'red')}"]
        lines += [f"    {place(refusal.about)}: {refusal.reason}" for refusal in plan.refused[:MOST_EDITS]]
        if len(plan.refused) > MOST_EDITS:
            lines.append(f"    and {len(plan.refused) - MOST_EDITS} more; --format json lists all")
    return "\n".join(lines)


def _edit(edit: Edit, paint: Paint) -> Iterator[str]:
    yield f"  {paint(place(edit.ref), 'bold')}"
    source = _FROM.get(edit.rung, edit.rung.value)
    yield f"    {counted(edit.count, 'element')} of {edit.ref.numel:,}: {paint(source, 'cyan')}"
    yield f"    {edit.reason}"
    if edit.error is not None:
        yield f"    estimated error of the layer's normalised output: {edit.error:.2g} standard deviations"
    if edit.approximate:
        yield f"    {paint('approximate', 'yellow')}: check the metric, and recalibrate on data if you can"
