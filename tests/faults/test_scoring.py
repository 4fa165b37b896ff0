"""Outcomes become scores by the class of the case."""

import json

import pytest

from benchmarks.faults.case import Kind
from benchmarks.faults.places import Side, Told
from benchmarks.faults.protections import CannotRunError, Nothing
from benchmarks.faults.scoring import Score, because_of_fault, is_met, is_right, play, score
from benchmarks.faults.training import Act, Event, Outcome
from fault_scores import case, tiny
from fault_scores import score as a_score


def ended(metric=0.9, *events, finite=True, digest="same", seconds=1.0):
    return Outcome(metric=metric, finite=finite, events=events, digest=digest, seconds=seconds)


def scored(faulty, about=None, plain=None, twin=None):
    plain = plain or ended()
    return score(about or case(), "torchmend", 0, plain, twin or plain, faulty)


@pytest.mark.parametrize(
    ("kind", "metric", "finite", "recovered"),
    [
        (Kind.LATENT, 0.95, True, True),
        (Kind.LATENT, 0.94, True, False),
        (Kind.LATENT, 1.0, False, False),
        (Kind.LATENT, float("nan"), True, False),
        (Kind.RUNAWAY, 0.75, True, True),
        (Kind.RUNAWAY, 0.74, True, False),
    ],
)
def test_recovered_is_finite_and_near_the_clean_run(kind, metric, finite, recovered):
    found = scored(ended(metric, finite=finite), case(kind=kind), plain=ended(1.0))
    assert (found.recovered, found.met) == (recovered, recovered)


def test_what_the_twin_shows_at_the_same_step_is_not_because_of_the_fault():
    usual, other, later = (
        Event(step=3, act=Act.WARN, cause="usual"),
        Event(step=3, act=Act.WARN, cause="other"),
        Event(step=4, act=Act.WARN, cause="usual"),
    )
    assert because_of_fault([usual, other, later], [usual]) == [other, later]


def test_the_latency_counts_from_the_onset_to_the_first_event():
    events = [Event(step=12, act=Act.WARN, cause="first"), Event(step=15, act=Act.UNDO, cause="second")]
    found = scored(ended(0.9, *events))
    assert (found.latency, found.cause, found.acts) == (2, "first", (Act.WARN, Act.UNDO))


def test_nothing_said_has_no_latency():
    assert scored(ended(0.1)).latency is None


def test_a_warning_before_the_first_step_has_a_latency_below_zero():
    assert scored(ended(0.9, Event(step=-1, act=Act.WARN))).latency == -11


@pytest.mark.parametrize("kind", [Kind.SILENT, Kind.STRUCTURAL])
def test_the_right_cause_meets_the_aim_where_it_counts(kind):
    about = case(kind=kind, causes=("TM606",), required=frozenset({Act.WARN}))
    told, other = (
        scored(ended(0.1, Event(step=10, act=Act.WARN, cause=f"{each} a")), about) for each in ("TM606", "X")
    )
    assert (told.found_cause, told.met, told.right, told.recovered) == (True, True, True, False)
    assert (other.found_cause, other.met, other.right) == (False, False, False)


def test_the_right_cause_alone_does_not_meet_the_aim_of_a_transient_fault():
    assert not is_met(case(kind=Kind.TRANSIENT), (Act.UNDO,), recovered=False, found=True)


@pytest.mark.parametrize(
    ("acts", "right"),
    [((), True), ((Act.LOG, Act.WARN), True), ((Act.REFUSE,), True), ((Act.ROLL_BACK,), False)],
)
def test_of_a_benign_case_only_what_it_allows_may_be_done(acts, right):
    about = case(kind=Kind.BENIGN, required=frozenset({Act.REFUSE}))
    assert is_right(about, acts, found=False) is right
    assert is_met(about, acts, recovered=True, found=False) is right


@pytest.mark.parametrize(("acts", "right"), [((Act.UNDO, Act.STOP), True), ((Act.REFUSE,), False), ((), False)])
def test_one_of_the_actions_asked_for_has_to_be_done(acts, right):
    assert is_right(case(), acts, found=False) is right


def test_false_alarms_are_interventions_in_the_twin_that_the_loop_would_not_make():
    events = [
        Event(step=1, act=Act.UNDO),
        Event(step=2, act=Act.WARN),
        Event(step=3, act=Act.REFUSE, by_loop=True),
    ]
    assert scored(ended(), twin=ended(0.9, *events)).false_alarms == 1


@pytest.mark.parametrize(("digest", "equal"), [("same", True), ("other", False)])
def test_the_twin_is_compared_to_the_last_bit(digest, equal):
    assert scored(ended(), twin=ended(digest=digest)).twin_equal is equal


def test_a_score_goes_through_json():
    assert Score.from_json(json.loads(json.dumps(a_score().as_json()))) == a_score()


class Refusing(Nothing):
    name = "refusing"

    def train(self):
        raise CannotRunError("no GPU")


class Naming(Nothing):
    name = "naming"

    def begin(self, step):
        super().begin(step)
        self.told.append(Told(step=step, side=Side.LOSS))


def played(*protections, localising=()):
    about = case(make=lambda seed, faulty: tiny(2), onset=1)
    return play(about, 0, protections, localising)


def test_a_protection_that_cannot_be_used_on_a_case_says_why():
    bare, refused = played(Nothing, Refusing).scores
    assert (bare.cannot, refused.cannot) == ("", "no GPU")
    assert not refused.met


def test_the_first_place_from_the_onset_on_is_kept():
    (found,) = played(Naming, localising=[Naming]).located
    assert (found.tool, found.told.step) == ("naming", 1)


def test_a_tool_that_is_no_protection_is_asked_for_places_alone():
    played_once = played(Nothing, localising=[Naming])
    assert [each.protection for each in played_once.scores] == ["none"]
    assert [each.tool for each in played_once.located] == ["naming"]
