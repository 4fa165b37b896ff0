"""The part of the page about where faults are, and who names the place: pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.faults.case import Case
from benchmarks.faults.markdown import anchor, count, quoted, table
from benchmarks.faults.places import Located, Side, Told, Truth, Verdict, names_operation, verdict
from benchmarks.faults.protections import Nothing

MEANING = """\
Where a fault is was read from the code of its case, not from what any tool says: see `truths.py`. A case counts with
every seed only. **Right place** is the right module, or where the fault is not in the model the right side of it: the
loss code, what the model was given, or state from before the step. **Right operation** is the one that makes the first
value that is not finite, or whose slope does. A tool is judged by the first place that it names from the fault's onset
on. Anomaly mode names operations alone, and prints the line where it was called, for its reader to look at."""

WITHOUT = """\
In the other cases there is no place to name, and they are not counted:"""

WHERE = {Side.MODULE: "module", Side.LOSS: "outside of the model", Side.INPUT: "in the input", Side.STATE: "state"}


@dataclass(frozen=True, slots=True)
class Row:
    """What one tool said about one case, with each seed.

    Args:
        truth: Where it is.
        found: One a seed.
    """

    truth: Truth
    found: tuple[Located, ...]

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """One a seed."""
        return tuple(verdict(each.told, self.truth) for each in self.found)

    @property
    def is_right(self) -> bool:
        """Whether the place is right with every seed."""
        return all(each.is_right for each in self.verdicts)

    @property
    def has_operation(self) -> bool:
        """Whether the operation is right with every seed."""
        return all(each.told is not None and names_operation(each.told, self.truth) for each in self.found)

    @property
    def said(self) -> bool:
        """Whether anything was named with any seed."""
        return any(each.told is not None for each in self.found)

    @property
    def cell(self) -> str:
        """The verdicts, and what was named first."""
        verdicts = dict.fromkeys(self.verdicts)
        many = len(verdicts) > 1
        words = [
            f"{each} ({self.verdicts.count(each)} of {len(self.found)})" if many else str(each) for each in verdicts
        ]
        told = next((each.told for each in self.found if each.told is not None), None)
        named = [] if told is None else [each for each in (_name(told), told.operation) if each]
        right = f"**{', '.join(words)}**" if self.is_right else ", ".join(words)
        return ": ".join([right, *([", ".join(map(quoted, named))] if named else [])])


def _name(told: Told) -> str:
    """Return what a place is called: outside of the model the side itself, and not the module before it."""
    return f"the {told.side}" if told.side in (Side.LOSS, Side.INPUT) else told.name


Rows = Mapping[tuple[str, str], Row]
"""By the name of the case and of the tool."""


def rows_of(results: Mapping[str, Any], cases: Sequence[Case], tools: Sequence[str]) -> Rows:
    """Arrange what tools named.

    Raises:
        ValueError: Results lack a case or a tool.
    """
    found = [Located.from_json(each) for each in results.get("places", ())]
    rows = {
        (case.name, tool): Row(case.truth, tuple(e for e in found if (e.case, e.tool) == (case.name, tool)))
        for case in cases
        for tool in tools
    }
    lacking = [" by ".join(key) for key, row in rows.items() if len(row.found) != len(results["seeds"])]
    if lacking:
        raise ValueError(f"results.json lacks places ({', '.join(lacking[:5])}): run the bench again, in full")
    return rows


def places(results: Mapping[str, Any], cases: Sequence[Case], tools: Sequence[type[Nothing]]) -> str:
    """Return the part of the page.

    Args:
        results: As `run.py` writes them.
        cases: All cases, in the order of the page.
        tools: What names places, in the order of the columns.

    Raises:
        ValueError: Results lack a case or a tool.
    """
    names = [each.name for each in tools]
    rows = rows_of(results, cases, names)
    placed = [each for each in cases if each.truth.is_localisable]
    others = [each for each in cases if each not in placed]
    table_of_cases = [
        [anchor(case.name), _where(case.truth), *(rows[case.name, name].cell for name in names)] for case in placed
    ]
    parts = [
        f"{count(len(placed), 'case')} of {len(cases)} have a place that can be named.\n{MEANING}",
        _summary(rows, placed, names),
        table(["case", "where it is", *names], table_of_cases),
        WITHOUT if others else "",
        "\n".join(_without(each, rows, names) for each in others),
    ]
    return "\n\n".join(part for part in parts if part)


def _summary(rows: Rows, placed: Sequence[Case], names: Sequence[str]) -> str:
    lines = []
    for name in names:
        column = [rows[case.name, name] for case in placed]
        right = sum(each.is_right for each in column)
        share = f"{100 * right / len(column):.0f} %" if column else "none"
        operations = sum(each.has_operation for each in column)
        makes = sum(bool(each.truth.operations) for each in column)
        wrong = sum(any(each is Verdict.WRONG for each in row.verdicts) for row in column)
        nothing = sum(not each.said for each in column)
        lines.append(
            [name, str(len(column)), f"{right} ({share})", f"{operations} of {makes}", str(wrong), str(nothing)]
        )
    header = ["tool", "cases with a place", "right place", "right operation", "wrong with some seed", "nothing said"]
    return table(header, lines)


def _where(truth: Truth) -> str:
    sides = " or ".join(WHERE[each] for each in truth.sides)
    names = f" {quoted(truth.names[0])}" if truth.names else ""
    made = f", {'backward of ' if truth.backward else ''}{quoted(truth.operations[0])}" if truth.operations else ""
    also = f" (as good: {', '.join(map(quoted, truth.names[1:]))})" if truth.names[1:] else ""
    about = f"; {truth.about}" if truth.about else ""
    return f"{sides}{names}{made}{also}{about}"


def _without(case: Case, rows: Rows, names: Sequence[str]) -> str:
    said = {name: rows[case.name, name] for name in names if rows[case.name, name].said}
    named = "; ".join(f"{name} names {_first_words(row)}" for name, row in said.items())
    return f"- {anchor(case.name)}: {case.truth.because}.{f' Still, {named}.' if named else ''}"


def _first_words(row: Row) -> str:
    told = next(each.told for each in row.found if each.told is not None)
    return quoted(told.words)
