"""The figures as a picture: a row a case, a column a protection."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib import colormaps
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A sign in a cell, and what it says."""

    text: str
    shape: str
    size: float
    fill: str
    edge: str

    def line(self, x: float, y: float) -> Line2D:
        """Return the sign at a place."""
        return Line2D(
            [x],
            [y],
            linestyle="none",
            marker=self.shape,
            markersize=self.size,
            markerfacecolor=self.fill,
            markeredgecolor=self.edge,
            label=self.text,
        )


RECOVERED = Mark(text="aim met by recovery", shape="o", size=7, fill="white", edge="black")
TOLD = Mark(text="aim met by telling the cause", shape="D", size=6, fill="white", edge="black")
PARTLY = Mark(text="aim met with some seeds", shape="o", size=5, fill="#8c8c8c", edge="white")
ALARM = Mark(text="interferes with the clean twin", shape="X", size=8, fill="#d55e00", edge="white")


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
    axes.set_xticks(
        [each + 0.5 for each in range(len(grid.protections))], grid.protections, fontsize=8, rotation=25, ha="left"
    )
    axes.tick_params(length=0, top=True, labeltop=True, labelbottom=False)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    _explain(figure, axes)
    figure.savefig(path, format="png")


def _draw_cell(axes: Axes, cell: Cell, column: int, row: int) -> None:
    if cell.cannot:
        axes.text(column + 0.5, row + 0.5, "cannot be run", ha="center", va="center", fontsize=6, color="#666666")
        return
    share = min(max(cell.relative, 0.0), 1.0)
    colour = colormaps[COLOURS](share)
    axes.add_patch(Rectangle((column + 0.02, row + 0.06), 0.96, 0.88, facecolor=colour, linewidth=0))
    if cell.met:
        axes.add_line(_aim(cell).line(column + 0.5, row + 0.5))
    if cell.false_alarms:
        axes.add_line(ALARM.line(column + 0.85, row + 0.5))


def _aim(cell: Cell) -> Mark:
    if not cell.always_met:
        return PARTLY
    return RECOVERED if cell.always_recovered else TOLD


def _explain(figure: Figure, axes: Axes) -> None:
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), COLOURS), ax=axes, location="bottom", shrink=0.5, aspect=40, pad=0.01
    )
    bar.set_label("final metric relative to the clean run's, median over seeds", fontsize=9)
    signs = [mark.line(0, 0) for mark in (RECOVERED, TOLD, PARTLY, ALARM)]
    figure.legend(handles=signs, loc="outside lower center", ncols=len(signs), fontsize=8, frameon=False)
