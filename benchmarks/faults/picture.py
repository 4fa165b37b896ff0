"""The figures as a picture: a row a case, a column a protection."""

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from benchmarks.faults.case import Kind
from benchmarks.faults.grid import Cell, Grid

COLOURS = "cividis"
"""From dark blue for 0 to yellow for 1; made to look the same to eyes that do not tell red from green."""

ROW = 0.2
"""Inches."""

MARKS = {
    "met": {"marker": "o", "markersize": 7, "color": "white", "markeredgecolor": "black"},
    "partly": {"marker": "o", "markersize": 7, "color": "none", "markeredgecolor": "white"},
    "alarm": {"marker": "X", "markersize": 8, "color": "#d55e00", "markeredgecolor": "white"},
}


def draw(grid: Grid, path: Path) -> None:
    """Write the picture as a PNG file.

    Args:
        grid: All scores.
        path: Where; what stands there is replaced.
    """
    kinds = [kind for kind in Kind if any(case.kind is kind for case in grid.cases)]
    rows = len(grid.cases) + len(kinds)
    figure = Figure(figsize=(9, ROW * rows + 1.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(0, len(grid.protections)), ylim=(rows, 0))
    row = 0
    for kind in kinds:
        axes.text(-0.05, row + 0.5, kind, ha="right", va="center", fontweight="bold", fontsize=9)
        row += 1
        for case in (each for each in grid.cases if each.kind is kind):
            axes.text(-0.05, row + 0.5, case.name, ha="right", va="center", family="monospace", fontsize=8)
            for column, name in enumerate(grid.protections):
                _draw_cell(axes, grid.cells[case.name, name], column, row)
            row += 1
    axes.set_xticks([each + 0.5 for each in range(len(grid.protections))], grid.protections, fontsize=9)
    axes.tick_params(length=0, top=True, labeltop=True, labelbottom=False)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    _explain(figure, axes)
    figure.savefig(path, format="png")


def _draw_cell(axes: Axes, cell: Cell, column: int, row: int) -> None:
    share = min(max(cell.relative, 0.0), 1.0) if math.isfinite(cell.relative) else 0.0
    axes.add_patch(Rectangle((column + 0.02, row + 0.06), 0.96, 0.88, facecolor=_colours().to_rgba(share), linewidth=0))
    if cell.met:
        axes.plot(column + 0.5, row + 0.5, **MARKS["met" if cell.always_met else "partly"])
    if cell.false_alarms:
        axes.plot(column + 0.85, row + 0.5, **MARKS["alarm"])


def _explain(figure: Figure, axes: Axes) -> None:
    bar = figure.colorbar(_colours(), ax=axes, location="bottom", shrink=0.5, aspect=40, pad=0.01)
    bar.set_label("final metric relative to the clean run's, median over seeds", fontsize=9)
    texts = {
        "met": "aim met, every seed",
        "partly": "aim met, some seeds",
        "alarm": "interferes with the clean twin",
    }
    handles = [Line2D([], [], linestyle="none", label=texts[name], **mark) for name, mark in MARKS.items()]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=3,
        fontsize=9,
        frameon=True,
        facecolor="#8a8678",
        labelcolor="black",
    )


def _colours() -> ScalarMappable:
    return ScalarMappable(Normalize(0, 1), COLOURS)
