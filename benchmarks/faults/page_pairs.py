"""The part of the page about two processes: pure."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.faults.markdown import count, linked, table
from benchmarks.faults.pairs import GUILTY, Pair
from benchmarks.faults.playing_pairs import PairScore

MEANING = f"""\
Two processes train one model by `DistributedDataParallel` over gloo, with `broadcast_buffers=False`, and process
{GUILTY} alone is at fault. A cell says with how many seeds both end well: the same weights to the last bit, all
parameters and buffers finite, and the lower metric of both at least 95 % of the clean run's; that metric, relative;
what was done; and which process was named."""


def pairs_part(results: Mapping[str, Any], pairs: Sequence[Pair], protections: Sequence[str]) -> str:
    """Return the part of the page; empty where no pairs were run.

    Args:
        results: As `run.py` writes them.
        pairs: All pairs, in the order of the rows.
        protections: Names, in the order of the columns.
    """
    scores = [PairScore.from_json(each) for each in results.get("pairs", ())]
    if not scores:
        return ""
    cells = {
        (pair.name, name): [each for each in scores if (each.case, each.protection) == (pair.name, name)]
        for pair in pairs
        for name in protections
    }
    rows = [
        [pair.name, pair.what, linked(pair.reported), *(_cell(cells[pair.name, name]) for name in protections)]
        for pair in pairs
    ]
    lost = [f"- {each.name}: {each.loses_because}" for each in pairs if each.loses_because]
    summary = "; ".join(_sum(name, [cells[pair.name, name] for pair in pairs]) for name in protections)
    return "\n\n".join(
        ["## Two processes", MEANING, f"{summary}.", table(["case", "what happens", "reported", *protections], rows)]
        + (["Why torchmend loses:\n\n" + "\n".join(lost)] if lost else [])
    )


def _sum(name: str, cells: Sequence[Sequence[PairScore]]) -> str:
    well = sum(all(each.is_healthy for each in cell) for cell in cells)
    named = sum(all(each.names_rank for each in cell) for cell in cells)
    twins = sum(all(each.twin_equal for each in cell) for cell in cells)
    return (
        f"{name}: {well} of {count(len(cells), 'case')} end well, the process is named in {named}, and in {twins} the "
        "clean run is the same to the last bit"
    )


def _cell(scores: Sequence[PairScore]) -> str:
    if not scores:
        return "not run"
    well = sum(each.is_healthy for each in scores)
    met = f"{well} of {len(scores)}"
    acts = ", ".join(dict.fromkeys(act for each in scores for act in each.acts)) or "nothing"
    named = sorted({each.named for each in scores if each.named is not None})
    right = sum(each.names_rank for each in scores)
    parts = [
        f"**{met}**" if well == len(scores) else met,
        f"{median(each.relative for each in scores):.2f}",
        "" if all(each.sound for each in scores) else "not finite",
        "" if all(each.identical for each in scores) else "weights differ",
        acts,
        f"names {' or '.join(map(str, named))} ({right} of {len(scores)} right)" if named else "names neither",
    ]
    return "; ".join(each for each in parts if each)
