"""The figures as a page: results and cases -> Markdown, pure."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.faults.case import Case, Kind
from benchmarks.faults.columns import LOCALISING, TOOLS
from benchmarks.faults.grid import Cell, Grid
from benchmarks.faults.markdown import anchor, count, linked, quoted, table
from benchmarks.faults.ours import Torchmend
from benchmarks.faults.page_pairs import pairs_part
from benchmarks.faults.page_places import places
from benchmarks.faults.pairs import PAIRS
from benchmarks.faults.playing_pairs import PROTECTIONS as OF_PAIRS
from benchmarks.faults.protections import Nothing
from benchmarks.faults.scoring import RECOVERED, RUNAWAY_RECOVERED

OURS, BARE = Torchmend.name, Nothing.name

MEANING = f"""\
- **Cases**: those that can be run under the protection; no others count in its row.
- **Aim met**: with every seed, all state is finite at the end and the metric is at least {100 * RECOVERED:.0f} % of the
  clean run's ({100 * RUNAWAY_RECOVERED:.0f} % after a runaway fault). It is also met by telling the right cause of a
  silent or structural fault; that of a benign one only if nothing was done that the case does not allow.
- **Recovered**: state and metric are so, whatever was done or told.
- **Right action**: with every seed, what was done is what the class of the fault asks for; of a silent or structural
  fault with its cause.
- **False alarms**: interventions in clean runs that the loop's own GradScaler would not have made, over all seeds.
- **Equal twins**: cases whose clean run ends the same to the last bit as without the protection, with every seed.
- **Cost**: seconds of the clean run with the protection, divided by those without; the median over all runs. The nets
  are tiny, so that what a protection adds to each step whatever the size counts for much: the column compares the
  protections here, and is no forecast for a real training. The [guard's own page](../guard/README.md) has larger
  networks."""

CELLS = """\
A cell says with how many seeds the aim is met; the final metric relative to the clean run's, median over seeds (the
worst in brackets where it differs); what was done because of the fault; and how many steps after its onset the first
was said or done. In bold: with every seed."""


def page(results: Mapping[str, Any], cases: Sequence[Case], protections: Sequence[type[Nothing]]) -> str:
    """Return the whole page.

    Args:
        results: As `run.py` writes them.
        cases: All cases, in the order of the rows.
        protections: All protections, in the order of the columns.

    Raises:
        ValueError: Results are not of these cases and protections.
    """
    grid = Grid.of(results, cases, [each.name for each in protections])
    tools = [each.name for each in protections if each in TOOLS]
    return f"""# What becomes of real faults

    make faults

{len(cases)} failures that users reported, rebuilt small, each beside a clean twin, with
{count(len(results["seeds"]), "seed")}. {results["machine"]}, CPU, one thread a run;
{results["minutes"]:g} minutes by {count(results["jobs"], "worker")}, on two cores whose load was {results["load"]:g}.
How a case is made: [CASES.md](CASES.md).

![Each case under each protection](matrix.png)

## In short

{_summary(grid)}

{MEANING}

The protections:

{_abouts(protections)}

## Aims met by class

{_by_class(grid)}

## Case by case

{CELLS}

{_table_of_cases(grid.without(tools))}
{_table_of_tools(grid, tools)}
## Where the fault is

{places(results, cases, LOCALISING)}

{pairs_part(results, PAIRS, [each.name for each in OF_PAIRS])}

## What torchmend loses

{_losses(grid)}

## The cases

{_descriptions(grid)}
"""


def _summary(grid: Grid) -> str:
    header = ["protection", "cases", "aim met", "recovered", "right action", "false alarms", "equal twins", "cost"]
    rows = []
    for name in grid.protections:
        cells = [each for each in grid.column(name) if not each.cannot]
        ratios = [score.seconds / score.plain_seconds for cell in cells for score in cell.scores]
        counts = (
            len(cells),
            sum(each.always_met for each in cells),
            sum(each.always_recovered for each in cells),
            sum(each.always_right for each in cells),
            sum(each.false_alarms for each in cells),
            sum(each.twins_equal for each in cells),
        )
        rows.append([name, *map(str, counts), f"{median(ratios):.2f}"])
    return table(header, rows)


def _abouts(protections: Sequence[type[Nothing]]) -> str:
    return "\n".join(f"- **{each.name}**: {each.about}." for each in protections)


def _by_class(grid: Grid) -> str:
    rows = []
    for kind in Kind:
        cases = [each for each in grid.cases if each.kind is kind]
        if cases:
            met = (sum(each.always_met for each in grid.column(name, cases)) for name in grid.protections)
            rows.append([kind, str(len(cases)), *map(str, met)])
    return table(["class", "cases", *grid.protections], rows)


def _table_of_cases(grid: Grid) -> str:
    rows = [
        [
            anchor(case.name),
            case.kind,
            case.what.split(". ")[0].rstrip("."),
            case.reported,
            *(_cell(grid.cells[case.name, name]) for name in grid.protections),
        ]
        for case in grid.cases
    ]
    return table(["case", "class", "what happens", "reported", *grid.protections], rows)


def _table_of_tools(grid: Grid, tools: Sequence[str]) -> str:
    """Return the same cells of other tools, beside torchmend's; empty where there are none."""
    if not tools:
        return ""
    names = [*tools, OURS]
    rows = [[anchor(case.name), *(_cell(grid.cells[case.name, name]) for name in names)] for case in grid.cases]
    return f"\nThe same with tools of others:\n\n{table(['case', *names], rows)}\n"


def _cell(cell: Cell) -> str:
    if cell.cannot:
        return f"cannot be run: {cell.cannot}"
    met = f"{cell.met} of {cell.seeds}"
    alarms = count(cell.false_alarms, "false alarm")
    parts = [
        f"**{met}**" if cell.always_met else met,
        _metric(cell) + ("" if cell.finite else ", not finite"),
        ", ".join(cell.acts) or "nothing",
        _latency(cell),
        f"{alarms} on the twin" if cell.false_alarms else "",
    ]
    return "; ".join(part for part in parts if part)


def _metric(cell: Cell) -> str:
    middle, worst = f"{cell.relative:.2f}", f"{cell.worst:.2f}"
    return middle if middle == worst else f"{middle} ({worst})"


def _latency(cell: Cell) -> str:
    if not cell.latencies:
        return ""
    first, last = cell.latencies[0], cell.latencies[-1]
    return f"{first:+d}" if first == last else f"{first:+d} to {last:+d}"


def _losses(grid: Grid) -> str:
    lost = [each for each in grid.cases if not grid.cells[each.name, OURS].always_met]
    kept = [each for each in grid.cases if each not in lost]
    disturbed = [each for each in grid.cases if not grid.cells[each.name, OURS].twins_equal]
    parts = [
        f"{count(len(lost), 'case')} of {len(grid.cases)}, with at least one seed.",
        _listed(
            "Met by telling the cause, while the run ends better with another protection",
            [anchor(each.name) + _outdone(grid, each) for each in kept if _outdone(grid, each)],
        ),
        _listed(
            "Clean runs that torchmend does not leave as they are, to the last bit",
            [anchor(each.name) for each in disturbed],
        ),
        _listed(
            "Known to be lost at times, and met with every seed here",
            [f"{anchor(each.name)}. {each.loses_because}" for each in kept if each.loses_because],
        ),
        *(_loss(grid, each) for each in lost),
    ]
    return "\n\n".join(part for part in parts if part)


def _outdone(grid: Grid, case: Case) -> str:
    """Say who ends better, by what counts as harm, where torchmend only told the cause; empty if nobody does."""
    ours = grid.cells[case.name, OURS]
    best = max(grid.protections, key=lambda name: grid.cells[case.name, name].relative)
    metric = grid.cells[case.name, best].relative
    if ours.always_recovered or metric - ours.relative <= 1 - RECOVERED:
        return ""
    return f": {metric:.2f} of the clean metric with {best}, {ours.relative:.2f} with {OURS}"


def _listed(title: str, entries: Sequence[str]) -> str:
    return "\n".join([f"{title}:", "", *(f"- {each}" for each in entries)]) if entries else ""


def _loss(grid: Grid, case: Case) -> str:
    scores = grid.cells[case.name, OURS].scores
    bare = grid.cells[case.name, BARE].scores
    rows = [
        [
            str(ours.seed),
            f"{ours.clean:.3f}",
            f"{alone.metric:.3f}",
            f"{ours.metric:.3f}",
            "yes" if ours.met else "no",
            ", ".join(ours.acts) or "nothing",
        ]
        for ours, alone in zip(scores, bare, strict=True)
    ]
    better = [name for name in grid.protections if grid.cells[case.name, name].met > sum(each.met for each in scores)]
    parts = [
        f"### Lost: {case.name}",
        case.loses_because or "The case does not say why.",
        table(["seed", "clean", "without protection", OURS, "aim met", "what torchmend did"], rows),
        f"Met with more seeds by: {', '.join(better)}." if better else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _descriptions(grid: Grid) -> str:
    return "\n\n".join(_description(case, grid.cells[case.name, OURS]) for case in grid.cases)


def _description(case: Case, ours: Cell) -> str:
    asked = " or ".join(sorted(case.required)) or "nothing but a log or a warning"
    causes = f", with a cause that holds {' or '.join(f'`{each}`' for each in case.causes)}" if case.causes else ""
    said = next((each.cause for each in ours.scores if each.cause), "")
    return f"""### {case.name}

{case.what}

- Class: {case.kind}. From step {case.onset} on. Reported in {linked(case.reported)}.
- {"Allowed" if case.kind is Kind.BENIGN else "Asked for"}: {asked}{causes}.
- What torchmend says first: {quoted(said) if said else "nothing"}."""
