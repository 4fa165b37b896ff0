"""Made-up cases and scores of the fault bench."""

from benchmarks.faults.case import Case, Kind
from benchmarks.faults.scoring import Score
from benchmarks.faults.training import Act


def made(seed, faulty):
    raise AssertionError("no training is run")


def case(name="overflow", kind=Kind.LATENT, **fields):
    return Case(
        **{
            "name": name,
            "kind": kind,
            "what": "A layer overflows. Evaluation is NaN.",
            "reported": "some/where#12, #34",
            "onset": 10,
            "required": frozenset({Act.UNDO}),
            "make": made,
            **fields,
        }
    )


def score(name="overflow", protection="torchmend", **fields):
    """Return a score; unless told otherwise the fault was undone at once, and the twin left alone."""
    return Score(
        **{
            "case": name,
            "protection": protection,
            "seed": 0,
            "clean": 0.9,
            "metric": 0.9,
            "finite": True,
            "latency": 0,
            "acts": (Act.UNDO,),
            "cause": "TM101 a.running_mean",
            "found_cause": False,
            "recovered": True,
            "met": True,
            "right": True,
            "twin_metric": 0.9,
            "twin_equal": True,
            "false_alarms": 0,
            "seconds": 3.0,
            "plain_seconds": 2.0,
            **fields,
        }
    )


def lost(name="overflow", protection="torchmend", **fields):
    """Return the score of a run that nothing was done about."""
    unharmed = {"metric": 0.09, "latency": None, "acts": (), "cause": "", "recovered": False, "met": False}
    return score(name, protection, **{**unharmed, "right": False, **fields})


def results(scores, seeds=(0,)):
    """Return what `run.py` writes of scores."""
    return {
        "machine": "a machine",
        "minutes": 1.5,
        "jobs": 2,
        "seeds": list(seeds),
        "scores": [each.as_json() for each in scores],
    }
