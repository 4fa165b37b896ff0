"""The figures as tables and a page: results -> Markdown, pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.root_cause.pictures import LARGE, SIDE
from benchmarks.root_cause.training import FAULT, STEPS, VALIDATED_EVERY

COMMAND = "python -m benchmarks.root_cause.run"
HALF_MAX = 65504


def page(results: Mapping[str, Any]) -> str:
    """Return the whole page, from results as `run.py` writes them."""
    return f"""# The root cause, and what each protection does about it

    {COMMAND}

A small network with the Fourier block of WaveSSM-X fills holes in crops of photographs, {SIDE} x {SIDE}; the spectrum
is cast to half precision before it is normalised. The batch of step {FAULT} of {STEPS} is one whole photograph,
{LARGE} x {LARGE}: nothing is wrong with it but its size. Validation is on held-out crops, in evaluation mode.
{results["machine"]}, CPU, one thread; {len(results["seeds"])} seeds, medians; {results["minutes"]:g} minutes in all.
What it means: [Root cause](../../docs/root-cause.md).

## The spectrum

{spectrum_table(results)}

Largest parts of spectra; {results["photographs"]} photographs, values from 0 to 1. In bold: more than half precision
holds, whose largest number is {HALF_MAX}.

## Protections

{protection_table(results)}

"Hurt" counts the running statistics (of 8) and the parameters (of 16) that hold Inf or NaN after step {FAULT}. PSNR in
decibels, at the validation {2 * VALIDATED_EVERY - FAULT} steps after it and at the end; "0 valid" where no output is
finite.

![Loss, and PSNR in evaluation mode, around the fault](around.png)

## Repairs

The checkpoint of the run with a `GradScaler` and nothing else, after step {STEPS}:

{repair_table(results)}
"""


def spectrum_table(results: Mapping[str, Any]) -> str:
    """Return a row for each size."""
    rows = [
        (
            f"{each['side']} x {each['side']}",
            _held(each["white"]),
            _held(each["peak"]),
            _held(each["largest"]),
            f"{each['overflows']} of {results['photographs']}",
            f"{each['scaled']:.0f}",
        )
        for each in results["spectrum"]
    ]
    heads = ("pixels", "white picture", "photographs, median", "largest", "overflow", "largest, scaled first")
    return _table(heads, rows)


def protection_table(results: Mapping[str, Any]) -> str:
    """Return a row for each protection, alone and with a GradScaler."""
    names = list(dict.fromkeys(each["way"] for each in results["runs"]))
    rows = []
    for name in names:
        cells = []
        for scaled in (False, True):
            runs = [each for each in results["runs"] if (each["way"], each["scaled"]) == (name, scaled)]
            statistics, weights = (round(median(each["hurt"][at] for each in runs)) for at in (0, 1))
            cells += [f"{statistics}, {weights}", *(_psnr(each["scores"][at] for each in runs) for at in (1, -1))]
        rows.append((name, *cells))
    heads = ("protection", *("hurt", "next", "end"), *("with a `GradScaler`: hurt", "next", "end"))
    return _table(heads, rows)


def repair_table(results: Mapping[str, Any]) -> str:
    """Return a row for each repair."""
    names = results["repairs"][0]
    clean = [each["scores"][-1] for each in results["runs"] if each["way"] == "no fault" and each["scaled"]]
    rows = [(name, _psnr(each[name] for each in results["repairs"])) for name in names]
    return _table(("repair", "PSNR"), [*rows, ("for comparison: a run without the fault", _psnr(clean))])


def _held(value: float) -> str:
    return f"**{value:,.0f}**" if value > HALF_MAX else f"{value:,.0f}"


def _psnr(scores: Iterable[float | None]) -> str:
    """Return the median of scores, of which None are those without a valid picture."""
    middle = median(-math.inf if each is None else each for each in scores)
    return "0 valid" if middle == -math.inf else f"{middle:.1f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
