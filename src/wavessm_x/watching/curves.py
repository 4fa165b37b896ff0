"""Pictures of how a training went: its course, the terms of its loss, and its validations."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wavessm_x.watching.csvlog import PARTS, read

COURSE = {
    "total_loss": "Total loss",
    "lr": "Learning rate",
    "grad_norm": "Gradient norm before clipping",
    "iter_time": "Seconds per iteration",
}
"""Columns of the log file in the first picture, with their titles."""

TERM_TITLES = {
    "loss_l1": "L1",
    "loss_perceptual": "Perceptual",
    "loss_ssim": "1 - SSIM",
    "loss_edge": "Edge",
    "loss_freq": "Frequency",
}
"""The terms in the second picture."""

VALIDATION = {"val_loss": ("Validation loss", min), "psnr": ("PSNR (dB)", max), "ssim": ("SSIM", max)}
"""Keys of a validation in the third picture, with their titles and what is best."""

LINE, FAINT, BAD, BEST = "#1f4e79", "#9dbcd8", "#c0392b", "#2e7d32"
"""Colours: of means and validations, of single values, of what is not finite, and of the best."""

MEAN_OVER = 40
"""A mean is drawn over the fortieth part of the lines."""


def curves(csv_path: Path, val_history: Sequence[Mapping[str, float]], folder: Path) -> list[Path]:
    """Draw training_curves.png, loss_breakdown.png and validation_metrics.png.

    Values that are not finite are marked red at the foot of a panel; a panel without any value says so.

    Args:
        csv_path: The log file.
        val_history: Validations with iteration, val_loss, psnr (dB) and ssim.
        folder: Where they are put; it is made.

    Returns:
        The three files.

    Raises:
        LogError: The log file is damaged.
    """
    columns = read(csv_path)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _training(columns, folder / "training_curves.png"),
        _breakdown(columns, folder / "loss_breakdown.png"),
        _validation(val_history, folder / "validation_metrics.png"),
    ]


def _training(columns: Mapping[str, list[float]], path: Path) -> Path:
    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, COURSE.items(), strict=True):
        _course(axes, title, columns["iteration"], columns[name], smooth=name != "lr")
        if name == "grad_norm" and any(value > 0 for value in _finite(columns[name])):
            axes.set_yscale("log")
    return _save(figure, path)


def _breakdown(columns: Mapping[str, list[float]], path: Path) -> Path:
    figure = Figure(figsize=(13, 7), layout="constrained")
    grid = list(figure.subplots(2, 3).flat)
    for axes, name in zip(grid, PARTS, strict=False):
        values = columns[name]
        iterations = [at for at, value in zip(columns["iteration"], values, strict=True) if value != 0]
        _course(axes, TERM_TITLES[name], iterations, [value for value in values if value != 0], empty="off so far")
        if columns["iteration"]:
            axes.set_xlim(0, max(columns["iteration"]) or 1)
    _shares(grid[-1], columns)
    return _save(figure, path)


def _shares(axes: Axes, columns: Mapping[str, list[float]]) -> None:
    """Draw all terms relative to their first values: which of them fall, and which do not."""
    axes.set_title("Each relative to its first mean")
    drawn = False
    for name in PARTS:
        points = [
            (at, value)
            for at, value in zip(columns["iteration"], columns[name], strict=True)
            if value and math.isfinite(value)
        ]
        if not points:
            continue
        means = _means([value for _, value in points])
        axes.plot([at for at, _ in points], [mean / means[0] for mean in means], label=TERM_TITLES[name], linewidth=1.5)
        drawn = True
    if drawn:
        axes.axhline(1, color="0.7", linewidth=0.8)
        axes.set_xlabel("Iteration")
        axes.set_xlim(0, max(columns["iteration"]) or 1)
        axes.legend(frameon=False, fontsize="small")
    else:
        _say(axes, "no values yet")


def _validation(history: Sequence[Mapping[str, float]], path: Path) -> Path:
    figure = Figure(figsize=(13, 4), layout="constrained")
    iterations = [each["iteration"] for each in history]
    for axes, (name, (title, best_of)) in zip(figure.subplots(1, 3), VALIDATION.items(), strict=True):
        values = [each[name] for each in history]
        _course(axes, title, iterations, values, smooth=False, empty="no validation yet", marker="o")
        finite = _finite(values)
        if finite:
            best = best_of(finite)
            at = iterations[values.index(best)]
            axes.plot([at], [best], "o", color=BEST, markersize=8, label=f"best {best:.4g} at {at:.0f}")
            axes.legend(frameon=False, fontsize="small")
    return _save(figure, path)


def _course(
    axes: Axes,
    title: str,
    iterations: Sequence[float],
    values: Sequence[float],
    *,
    smooth: bool = True,
    empty: str = "no values yet",
    marker: str = "",
) -> None:
    """Draw values over iterations, with their means if asked for, and mark what is not finite."""
    axes.set_title(title)
    lost = [at for at, value in zip(iterations, values, strict=True) if not math.isfinite(value)]
    finite = _finite(values)
    if finite:
        heights = [value if math.isfinite(value) else math.nan for value in values]
        axes.plot(iterations, heights, color=FAINT if smooth else LINE, linewidth=0.8 if smooth else 1.5, marker=marker)
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
    if finite and smooth:
        shown = [at for at, value in zip(iterations, values, strict=True) if math.isfinite(value)]
        axes.plot(shown, _means(finite), color=LINE, linewidth=1.8)
    if lost:
        foot = axes.get_xaxis_transform()
        axes.plot(lost, [0.02] * len(lost), "x", color=BAD, transform=foot, label=f"not finite: {len(lost)}")
        axes.legend(frameon=False, fontsize="small")
    if values:
        axes.set_xlabel("Iteration")
        axes.grid(color="0.9")
    else:
        _say(axes, empty)


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", color="0.5", transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def _means(values: Sequence[float]) -> list[float]:
    """Return the mean of each value and those around it, fewer at the ends."""
    half = len(values) // MEAN_OVER // 2
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    spans = ((max(at - half, 0), min(at + half + 1, len(values))) for at in range(len(values)))
    return [(sums[stop] - sums[start]) / (stop - start) for start, stop in spans]


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _save(figure: Figure, path: Path) -> Path:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110)
    return path
