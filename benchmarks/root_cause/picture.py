"""Losses and PSNR around the fault, as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.root_cause.training import FAULT, VALIDATED_EVERY

COLOURS = ("#d55e00", "#e69f00", "#0072b2", "#009e73")
"""Told apart also by eyes that do not tell red from green (Okabe and Ito 2008)."""


def draw(around: Mapping[str, Any], path: Path) -> None:
    """Write the picture as a PNG file.

    Args:
        around: By protection, `steps`, and at each of them `losses` and `psnr`; None for what is not finite.
        path: Where; what stands there is replaced.
    """
    figure = Figure(figsize=(8, 5.2), dpi=120, layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    for (name, found), colour in zip(around.items(), COLOURS, strict=True):
        above.plot(found["steps"], _numbers(found["losses"]), color=colour, lw=1.2, marker=".", ms=3)
        scores = _numbers(found["psnr"])
        below.plot(found["steps"], scores, color=colour, lw=1.5, marker=".", ms=4, label=name)
        lost = [step for step, score in zip(found["steps"], scores, strict=True) if np.isnan(score)]
        below.plot(lost, np.zeros(len(lost)), color=colour, ls="none", marker="x", ms=4)
    for axes in (above, below):
        axes.axvline(FAULT, color="black", lw=0.8, ls=":")
        axes.axvline(2 * VALIDATED_EVERY, color="grey", lw=0.8, ls="--")
        axes.spines[["top", "right"]].set_visible(False)
    above.set(ylabel="training loss", ylim=(0, None))
    above.text(FAULT, above.get_ylim()[1], " overflow", va="top", fontsize=8)
    above.text(2 * VALIDATED_EVERY, above.get_ylim()[1], " validation", va="top", fontsize=8)
    below.set(ylabel="PSNR in evaluation mode, dB\n(x: no finite output)", xlabel="step", ylim=(-1, None))
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.savefig(path, format="png")


def _numbers(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if each is None else each for each in values])
