"""Outcomes -> scores: pure, but for `play`, which runs a case."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch

from benchmarks.faults.case import Case, Kind
from benchmarks.faults.places import Located, first_told
from benchmarks.faults.protections import CannotRunError, Nothing
from benchmarks.faults.training import Act, Event, Outcome, run

RECOVERED, RUNAWAY_RECOVERED = 0.95, 0.75
"""Shares of the clean run's metric that count as recovered; the second for runaway faults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One case under one protection with one seed.

    Args:
        case: Its name.
        protection: The same.
        seed: Of data and weights.
        clean: The final metric of the clean run without protection.
        metric: That of the faulty run with it.
        finite: Whether all of that run's state is.
        latency: Steps from the onset to the first thing that was said or done because of the fault; None for never.
        acts: What was done in the faulty run because of the fault, each once.
        cause: The first words about it.
        found_cause: Whether a cause that the case names was told.
        recovered: Whether state is finite and the metric near enough to the clean one.
        met: Whether the aim of the case's class was reached.
        right: Whether what was done is what the class asks for.
        twin_metric: The metric of the clean run with the protection.
        twin_equal: Whether that run is the same to the last bit.
        false_alarms: Interventions in it.
        seconds: Of the clean run with the protection.
        plain_seconds: Of the clean run without.
        cannot: Why the case cannot be run so; empty if it was. Nothing else holds then.
    """

    case: str
    protection: str
    seed: int
    clean: float
    metric: float
    finite: bool
    latency: int | None
    acts: tuple[Act, ...]
    cause: str
    found_cause: bool
    recovered: bool
    met: bool
    right: bool
    twin_metric: float
    twin_equal: bool
    false_alarms: int
    seconds: float
    plain_seconds: float
    cannot: str = ""

    @property
    def relative(self) -> float:
        """The metric relative to the clean run's."""
        return self.metric / self.clean

    def as_json(self) -> dict[str, Any]:
        """Return the fields, figures rounded."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Return the score that `as_json` gave these fields of."""
        return cls(**{**fields, "acts": tuple(Act(each) for each in fields["acts"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of one case with one seed.

    Args:
        scores: One a protection.
        located: One for each of them that names places.
    """

    scores: tuple[Score, ...]
    located: tuple[Located, ...] = ()


def play(
    case: Case, seed: int, protections: Collection[type[Nothing]], localising: Collection[type[Nothing]] = ()
) -> Played:
    """Run a case and its twin under each protection, and score it.

    Args:
        case: What is run.
        seed: With which.
        protections: Under what, with a twin.
        localising: What is asked for places; where it is no protection the faulty run alone is made.
    """
    _run(case, seed, Nothing, faulty=False)  # the first run loads and warms what the others find
    plain = _run(case, seed, Nothing, faulty=False)
    scores, told = [], {}
    for protection in protections:
        try:
            twin = plain if protection is Nothing else _run(case, seed, protection, faulty=False)
            faulty = _run(case, seed, protection, faulty=True)
        except CannotRunError as error:
            scores.append(not_run(case, protection.name, seed, plain, str(error)))
        else:
            scores.append(score(case, protection.name, seed, plain, twin, faulty))
            told[protection] = faulty.told
    for tool in localising:
        if tool not in protections:
            told[tool] = _run(case, seed, tool, faulty=True).told
    places = [
        Located(case=case.name, tool=each.name, seed=seed, told=first_told(told[each], case.onset))
        for each in localising
        if each in told
    ]
    return Played(scores=tuple(scores), located=tuple(places))


def _run(case: Case, seed: int, protection: type[Nothing], *, faulty: bool) -> Outcome:
    torch.manual_seed(seed)
    training = case.make(seed, faulty)
    torch.manual_seed(seed + 1)
    return run(training, protection(training))


def score(case: Case, protection: str, seed: int, plain: Outcome, twin: Outcome, faulty: Outcome) -> Score:
    """Compare a faulty run with its twin, and the twin with the plain run.

    Args:
        case: What was run.
        protection: Under what.
        seed: With which.
        plain: The clean run without protection.
        twin: The clean run with it.
        faulty: The faulty run with it.
    """
    about = because_of_fault(faulty.events, twin.events)
    acts = tuple(dict.fromkeys(each.act for each in about))
    found = any(cause in each.cause for cause in case.causes for each in about)
    share = RUNAWAY_RECOVERED if case.kind is Kind.RUNAWAY else RECOVERED
    recovered = faulty.finite and math.isfinite(faulty.metric) and faulty.metric >= share * plain.metric
    return Score(
        case=case.name,
        protection=protection,
        seed=seed,
        clean=plain.metric,
        metric=faulty.metric,
        finite=faulty.finite,
        latency=about[0].step - case.onset if about else None,
        acts=acts,
        cause=about[0].cause[:200] if about else "",
        found_cause=found,
        recovered=recovered,
        met=is_met(case, acts, recovered=recovered, found=found),
        right=is_right(case, acts, found=found),
        twin_metric=twin.metric,
        twin_equal=twin.digest == plain.digest,
        false_alarms=sum(each.act.interferes and not each.by_loop for each in twin.events),
        seconds=twin.seconds,
        plain_seconds=plain.seconds,
    )


def not_run(case: Case, protection: str, seed: int, plain: Outcome, why: str) -> Score:
    """Return the score of a case that a protection cannot be used on."""
    return Score(
        case=case.name,
        protection=protection,
        seed=seed,
        clean=plain.metric,
        metric=0.0,
        finite=True,
        latency=None,
        acts=(),
        cause="",
        found_cause=False,
        recovered=False,
        met=False,
        right=False,
        twin_metric=plain.metric,
        twin_equal=True,
        false_alarms=0,
        seconds=plain.seconds,
        plain_seconds=plain.seconds,
        cannot=why,
    )


def because_of_fault(events: Iterable[Event], twins: Iterable[Event]) -> list[Event]:
    """Return what was said and done in the faulty run and not, at the same step, in its twin."""
    usual = set(twins)
    return [each for each in events if each not in usual]


def is_met(case: Case, acts: Collection[Act], *, recovered: bool, found: bool) -> bool:
    """Return whether the aim of the class is reached: recovered, or told with the right cause where that is the aim."""
    if case.kind in (Kind.SILENT, Kind.STRUCTURAL):
        return recovered or found
    if case.kind is Kind.BENIGN:
        return recovered and is_right(case, acts, found=found)
    return recovered


def is_right(case: Case, acts: Collection[Act], *, found: bool) -> bool:
    """Return whether the class of action is the one asked for.

    A benign case asks for none; silent and structural ones for the right cause with it, where they name one.
    """
    done = {act for act in acts if act.interferes}
    if case.kind is Kind.BENIGN:
        return done <= case.required
    asked = bool(case.required & set(acts))
    return asked and (found or case.kind not in (Kind.SILENT, Kind.STRUCTURAL))
