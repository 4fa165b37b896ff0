"""The page of what was measured on live models."""

from live_methods import BATCHES, HEALTHY, METHODS, OURS
from report import Result, cell, machine

COMMAND = "python benchmarks/repair/live.py"
HOW = (
    "Statistics of normalisation layers in a live model become NaN; each method repairs the model, which is then "
    "evaluated. Cells: the metric relative to the healthy network's, mean / worst over the draws (three seeds, or each "
    "layer in turn). *reset*: every damaged statistic whole to 0 or 1. *nan_to_num*: `torch.nan_to_num` on them. "
    f"*update_bn*: `torch.optim.swa_utils.update_bn`, on {BATCHES} batches; it resets and "
    "measures every layer. "
    "Ours: *last copy*, what a guard holds of the last healthy step; *prediction*, `torchmend.repair` from the model's "
    "own numbers; *noise* and *1/f noise*, `torchmend.recalibrate` on noise of the inputs' shape, mean and "
    "deviation, `falloff=0` and `falloff=1`; *data*, the same on the batches that `update_bn` got."
)


def render_live(about: dict[str, str], results: list[Result]) -> str:
    """Return the whole page."""
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    sections = [
        _section(name, text, [each for each in results if each.network == name]) for name, text in about.items()
    ]
    parts = ["# How good repaired live models are", f"Written by `{COMMAND}`. Machine: {facts}.", HOW, *sections]
    return "\n\n".join(parts) + "\n"


def _section(name: str, about: str, results: list[Result]) -> str:
    healthy = next(each.metric for each in results if each.method == HEALTHY)
    damaged = [each for each in results if each.method != HEALTHY]
    heads = [f"**{method}**" if method in OURS else method for method in METHODS]
    lines = [
        f"## {name}",
        "",
        f"{about[0].upper()}{about[1:]}. Healthy: {healthy:.3f}.",
        "",
        f"| lost | {' | '.join(heads)} |",
        "|---" * (len(METHODS) + 1) + "|",
    ]
    for kind in dict.fromkeys(each.damage for each in damaged):
        rows = [each for each in damaged if each.damage == kind]
        cells = [cell([each.metric / healthy for each in rows if each.method == method]) for method in METHODS]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)
