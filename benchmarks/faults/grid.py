"""The scores of one full run by case and protection; what the page and the picture are both made from."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Self

from benchmarks.faults.case import Case
from benchmarks.faults.scoring import Score
from benchmarks.faults.training import Act


@dataclass(frozen=True, slots=True)
class Cell:
    """One case under one protection, over all seeds.

    Args:
        scores: One a seed; at least one.
    """

    scores: tuple[Score, ...]

    @property
    def seeds(self) -> int:
        """How many seeds were run."""
        return len(self.scores)

    @property
    def cannot(self) -> str:
        """Why the case cannot be run under the protection; empty if it was, with every seed."""
        return next((each.cannot for each in self.scores if each.cannot), "")

    @property
    def met(self) -> int:
        """With how many seeds the aim was met."""
        return sum(each.met for each in self.scores)

    @property
    def always_met(self) -> bool:
        """Whether the aim was met with every seed."""
        return self.met == self.seeds

    @property
    def always_recovered(self) -> bool:
        """Whether state and metric were as good as the clean run's with every seed."""
        return all(each.recovered for each in self.scores)

    @property
    def always_right(self) -> bool:
        """Whether what was done was of the class asked for with every seed."""
        return all(each.right for each in self.scores)

    @property
    def shares(self) -> list[float]:
        """The final metric relative to the clean run's, one a seed; 0 where it is not finite."""
        return [each.relative if math.isfinite(each.relative) else 0.0 for each in self.scores]

    @property
    def relative(self) -> float:
        """The median of `shares`."""
        return median(self.shares)

    @property
    def worst(self) -> float:
        """The lowest of `shares`."""
        return min(self.shares)

    @property
    def finite(self) -> bool:
        """Whether all state was finite at the end with every seed."""
        return all(each.finite for each in self.scores)

    @property
    def acts(self) -> tuple[Act, ...]:
        """What was done because of the fault with any seed, each once."""
        return tuple(dict.fromkeys(act for each in self.scores for act in each.acts))

    @property
    def latencies(self) -> tuple[int, ...]:
        """Steps from the onset to the first thing said or done, of the seeds that had one; from low to high."""
        return tuple(sorted(each.latency for each in self.scores if each.latency is not None))

    @property
    def false_alarms(self) -> int:
        """Interventions in the clean twins of all seeds."""
        return sum(each.false_alarms for each in self.scores)

    @property
    def twins_equal(self) -> bool:
        """Whether every clean twin ended the same to the last bit as without the protection."""
        return all(each.twin_equal for each in self.scores)


@dataclass(frozen=True, slots=True)
class Grid:
    """All cells.

    Args:
        cases: Rows.
        protections: Names of columns.
        cells: By the name of the case and of the protection.
    """

    cases: tuple[Case, ...]
    protections: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]

    @classmethod
    def of(cls, results: Mapping[str, Any], cases: Sequence[Case], protections: Sequence[str]) -> Self:
        """Arrange results.

        Args:
            results: As `run.py` writes them.
            cases: All cases, in the order of the rows.
            protections: Names, in the order of the columns.

        Raises:
            ValueError: Results lack a case, protection or seed, or hold one that there is no longer.
        """
        scores = [Score.from_json(each) for each in results["scores"]]
        held = {(each.case, each.protection, each.seed) for each in scores}
        due = {(case.name, name, seed) for case in cases for name in protections for seed in results["seeds"]}
        if held != due:
            odd = ", ".join(sorted({" under ".join(each[:2]) for each in held ^ due})[:5])
            message = f"results.json is not of the cases that are there now ({odd}): run the bench again, in full"
            raise ValueError(message)
        cells = {
            (case.name, name): Cell(tuple(e for e in scores if (e.case, e.protection) == (case.name, name)))
            for case in cases
            for name in protections
        }
        return cls(tuple(cases), tuple(protections), cells)

    def without(self, protections: Collection[str]) -> "Grid":
        """Return the same without some columns."""
        return replace(self, protections=tuple(each for each in self.protections if each not in protections))

    def column(self, protection: str, cases: Sequence[Case] | None = None) -> list[Cell]:
        """Return the cells of a protection, of all cases or of some."""
        return [self.cells[case.name, protection] for case in (self.cases if cases is None else cases)]
