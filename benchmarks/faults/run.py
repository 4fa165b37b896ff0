"""What becomes of real faults, without a guard and with each: writes `results.json`, `README.md` and `matrix.png`.

    python -m benchmarks.faults.run [--seeds 0 1 2] [--cases NAME ...] [--protections NAME ...] [--jobs 2]
    python -m benchmarks.faults.run --pairs [--seeds 0 1 2]
    python -m benchmarks.faults.run --page

With `--cases` or `--protections` scores are printed, and nothing is written. With `--pairs` the cases of two
processes are run alone, and put into `results.json`. With `--page` nothing is run, and page and picture are made
again from it. `make faults` runs everything in an environment that has arc-training as well; without it the cells say
that it is not installed.
"""

import argparse
import json
import logging
import multiprocessing
import os
import platform
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.faults.cases import CASES
from benchmarks.faults.columns import LOCALISING, PROTECTIONS
from benchmarks.faults.grid import Grid
from benchmarks.faults.page import page
from benchmarks.faults.picture import draw
from benchmarks.faults.places import Located, verdict
from benchmarks.faults.playing_pairs import play_pairs
from benchmarks.faults.scoring import Played, Score, play

HERE = Path(__file__).parent
Job = tuple[str, int, tuple[str, ...]]
"""A case, a seed, and protections by name."""


def quieten() -> None:
    """Use one thread, so that runs do not fight for cores; say nothing but scores."""
    torch.set_num_threads(1)
    logging.getLogger("torchmend").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")


def work(job: Job) -> Played:
    """Run one case with one seed."""
    name, seed, protections = job
    case = next(each for each in CASES if each.name == name)
    chosen = [each for each in PROTECTIONS if each.name in protections]
    localising = LOCALISING if len(chosen) == len(PROTECTIONS) else [each for each in LOCALISING if each in chosen]
    return play(case, seed, chosen, localising)


def played(jobs: Sequence[Job], count: int) -> Iterator[Played]:
    """Run jobs in so many processes; yield what came of them in order."""
    if count == 1:
        quieten()
        yield from map(work, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(count, quieten) as pool:
        yield from pool.imap(work, jobs)


def told(score: Score) -> str:
    """Say a score in a line."""
    if score.cannot:
        return f"{score.case:26} {score.protection:19} {score.seed}  cannot be run: {score.cannot}"
    when = "never" if score.latency is None else f"+{score.latency}"
    return (
        f"{score.case:26} {score.protection:19} {score.seed}  clean {score.clean:.3f}  faulty {score.metric:.3f}"
        f"{'' if score.finite else ' NOT FINITE'}  {'MET' if score.met else 'not met'}, seen {when}, "
        f"{', '.join(score.acts) or 'nothing done'}{'' if score.right else ' (wrong)'}; twin "
        f"{'equal' if score.twin_equal else f'{score.twin_metric:.3f}'}, {score.false_alarms} alarms; "
        f"{score.seconds:.2f} s of {score.plain_seconds:.2f}; {score.cause}"
    )


def told_place(place: Located) -> str:
    """Say a place in a line."""
    words = (
        "nothing"
        if place.told is None
        else f"{place.told.side} {place.told.name} {place.told.operation}: {place.told.words}"
    )
    right = verdict(place.told, next(each.truth for each in CASES if each.name == place.case))
    return f"{place.case:26} {place.tool:19} {place.seed}  place {right}; {words}"


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--cases", nargs="+", choices=[each.name for each in CASES], metavar="NAME")
    made.add_argument("--protections", nargs="+", choices=[each.name for each in PROTECTIONS], metavar="NAME")
    made.add_argument("--jobs", type=int, default=2)
    made.add_argument("--pairs", action="store_true", help="only run the cases of two processes again, and the page")
    made.add_argument("--page", action="store_true", help="only make page and picture again, from results.json")
    return made


def write_page(folder: Path) -> None:
    """Write `README.md` and `matrix.png` beside the `results.json` of a folder.

    Raises:
        FileNotFoundError: There is no `results.json`.
        ValueError: It is not of the cases and protections that are there now.
    """
    results = json.loads((folder / "results.json").read_text())
    text = page(results, CASES, PROTECTIONS)
    draw(Grid.of(results, CASES, [each.name for each in PROTECTIONS]), folder / "matrix.png")
    (folder / "README.md").write_text(text)


def main(arguments: Sequence[str] | None = None) -> None:
    reader = parser()
    given = reader.parse_args(arguments)
    if given.jobs < 1:
        reader.error(f"argument --jobs: expected at least 1, got {given.jobs}")
    alone = given.page or given.pairs
    if not alone:
        measure(given)
        return
    option = "--page" if given.page else "--pairs"
    if given.cases or given.protections:
        reader.error(f"argument {option}: the page is of everything: leave out --cases and --protections")
    try:
        if given.pairs:
            measure_pairs(given.seeds)
        write_page(HERE)
    except FileNotFoundError as error:
        reader.error(f"argument {option}: {error.filename} is not there: run the bench first, without {option}")
    except ValueError as error:
        reader.error(f"argument {option}: {error}")


def measure_pairs(seeds: Sequence[int]) -> None:
    """Run the cases of two processes, and put their scores into the results that there are."""
    path = HERE / "results.json"
    results = json.loads(path.read_text())
    pairs = [each.as_json() for each in play_pairs(seeds)]
    path.write_text(dumped({**results, "pairs": pairs}))


def measure(given: argparse.Namespace) -> None:
    """Run what was asked for and print its scores; write results, page and picture if it was everything."""
    names = tuple(given.protections or [each.name for each in PROTECTIONS])
    jobs = [(case, seed, names) for case in given.cases or [each.name for each in CASES] for seed in given.seeds]
    began = time.perf_counter()
    scores: list[Score] = []
    places: list[Located] = []
    for each in played(jobs, given.jobs):
        scores += each.scores
        places += each.located
        print(*map(told, each.scores), *map(told_place, each.located), sep="\n", flush=True)
    if given.cases or given.protections:
        return
    minutes = round((time.perf_counter() - began) / 60, 1)
    results: dict[str, Any] = {
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}",
        "minutes": minutes,
        "jobs": given.jobs,
        "load": round(os.getloadavg()[2], 1),
        "seeds": given.seeds,
        "scores": [score.as_json() for score in scores],
        "places": [place.as_json() for place in places],
        "pairs": [each.as_json() for each in play_pairs(given.seeds)],
    }
    (HERE / "results.json").write_text(dumped(results))
    write_page(HERE)


def dumped(results: Mapping[str, Any]) -> str:
    """Return results as JSON with a line a record."""
    entries = []
    for key, value in results.items():
        are_records = isinstance(value, list) and value and isinstance(value[0], dict)
        lines = ",\n  ".join(map(json.dumps, value)) if are_records else ""
        entries.append(f"{json.dumps(key)}: " + (f"[\n  {lines}\n ]" if are_records else json.dumps(value)))
    return "{\n " + ",\n ".join(entries) + "\n}\n"


if __name__ == "__main__":
    main()
