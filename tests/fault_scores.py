"""Made-up cases and scores of the fault bench."""

import torch
from torch import nn

from benchmarks.faults.case import Case, Kind
from benchmarks.faults.columns import LOCALISING
from benchmarks.faults.places import Located, Side, Truth
from benchmarks.faults.playing_pairs import PairScore
from benchmarks.faults.scoring import Score
from benchmarks.faults.training import Act, Training


def made(seed, faulty):
    raise AssertionError("no training is run")


def tiny(steps, bad=None, scaler=None, saved=None):
    """Return a real training of one linear layer.

    Args:
        steps: How many.
        bad: The step with a root at 0, whose slope is Inf.
        scaler: Its GradScaler.
        saved: A folder in which the metric of each step is saved by; the second is NaN.
    """
    model = nn.Linear(2, 1)

    def loss(step):
        out = model(torch.ones(4, 2)).square().mean()
        return out + (out * 0).sqrt() if step == bad else out

    def save(step, saver):
        saver(step, saved / "last.pt", float("nan") if step == 1 else float(-step))

    return Training(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        steps=steps,
        loss=loss,
        evaluate=lambda: 1.0,
        scaler=scaler,
        save=None if saved is None else save,
    )


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
            "truth": Truth(sides=(Side.MODULE,), names=("a",), operations=("div",)),
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


def pair_score(**fields):
    """Return the score of two processes that both ended well, of which the right one was named."""
    return PairScore(
        **{
            "case": "pair_loss",
            "protection": "torchmend",
            "seed": 0,
            "identical": True,
            "sound": True,
            "relative": 1.0,
            "acts": ("undo",),
            "named": 1,
            "twin_equal": True,
            **fields,
        }
    )


def results(scores, seeds=(0,), places=(), pairs=()):
    """Return what `run.py` writes of scores; of places that are not given, that nothing was said."""
    given = {(each.case, each.tool, each.seed): each for each in places}
    due = dict.fromkeys((each.case, tool.name, seed) for each in scores for tool in LOCALISING for seed in seeds)
    silent = {key: Located(case=key[0], tool=key[1], seed=key[2], told=None) for key in due}
    return {
        "machine": "a machine",
        "minutes": 1.5,
        "jobs": 2,
        "load": 1.0,
        "seeds": list(seeds),
        "scores": [each.as_json() for each in scores],
        "places": [each.as_json() for each in {**silent, **given}.values()],
        "pairs": [each.as_json() for each in pairs],
    }
