"""The page of what was measured on live models."""

from live_damage import POISONED
from live_methods import BATCHES, HEALTHY, METHODS, OURS
from report import Result, cell, machine

COMMAND = "python benchmarks/repair/live.py"
HOW = (
    "Statistics of normalisation layers in a live model become NaN; each method repairs the model, which is then "
    "evaluated. Cells: the metric relative to the healthy network's, mean / worst over the draws (three seeds, or each "
    "layer in turn). *reset*: every damaged statistic whole to 0 or 1. *nan_to_num*: `torch.nan_to_num` on them. "
    f"*update_bn*: `torch.optim.swa_utils.update_bn`, on {BATCHES} batches; it resets and measures every layer. "
    "Ours: *last copy*, what a guard holds of the last healthy step; *prediction*, `torchmend.repair` from the model's "
    "own numbers; *noise* and *1/f noise*, `torchmend.recalibrate` on noise of the inputs' shape, mean and "
    "deviation, `falloff=0` and `falloff=1`; *data*, the same on the batches that `update_bn` got."
)

_HEADS = [f"**{method}**" if method in OURS else method for method in METHODS]


def render_live(about: dict[str, str], results: list[Result]) -> str:
    """Return the whole page."""
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    sections = [
        _section(name, text, [each for each in results if each.network == name]) for name, text in about.items()
    ]
    title = "# How good repaired live models are"
    parts = [title, f"Written by `{COMMAND}`. Machine: {facts}.", HOW, _summary(results), *sections]
    return "\n\n".join(parts) + "\n"


def _summary(results: list[Result]) -> str:
    """Return one row a network, over all damages but those with poison; and one over channels alone."""
    lines = [f"| network, damages | {' | '.join(_HEADS)} |", "|---" * (len(METHODS) + 1) + "|"]
    for name in dict.fromkeys(each.network for each in results):
        of = [each for each in results if each.network == name and POISONED not in each.damage]
        for which, rows in {
            "channels lost": [each for each in of if "whole" not in each.damage],
            "one layer lost whole": [each for each in of if "one whole" in each.damage],
            "every layer lost whole": [each for each in of if "every layer whole" in each.damage],
        }.items():
            healthy = next(each.metric for each in of if each.method == HEALTHY)
            lines.append(f"| {name}, {which} | {' | '.join(_cells(rows, healthy))} |")
    return "\n".join(lines)


def _section(name: str, about: str, results: list[Result]) -> str:
    healthy = next(each.metric for each in results if each.method == HEALTHY)
    damaged = [each for each in results if each.method != HEALTHY]
    lines = [
        f"## {name}",
        "",
        f"{about[0].upper()}{about[1:]}. Healthy: {healthy:.3f}.",
        "",
        f"| lost | {' | '.join(_HEADS)} |",
        "|---" * (len(METHODS) + 1) + "|",
    ]
    for kind in dict.fromkeys(each.damage for each in damaged):
        rows = [each for each in damaged if each.damage == kind]
        lines.append(f"| {kind} | {' | '.join(_cells(rows, healthy))} |")
    return "\n".join(lines)


def _cells(rows: list[Result], healthy: float) -> list[str]:
    return [cell([each.metric / healthy for each in rows if each.method == method]) for method in METHODS]
