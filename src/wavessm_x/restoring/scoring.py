"""How well a trained network restores pictures whose originals are known, and the scores as a file."""

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wavessm_x.config import WavessmError
from wavessm_x.data import Sample, Skipped, WholeSet
from wavessm_x.data.reading import Pixels
from wavessm_x.metrics import BEST_PSNR, mean_scores, scores
from wavessm_x.restoring.drafts import draft
from wavessm_x.restoring.restorer import Restorer, RestoringError

NAMES = ("psnr", "ssim", "psnr_masked", "ssim_masked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The scores of a picture.

    Args:
        name: Of the picture.
        scores: By `NAMES`, as `metrics.scores` gives them.
    """

    name: str
    scores: dict[str, float]


def score_all(restorer: Restorer, pictures: WholeSet) -> Iterator[Scored | Skipped]:
    """Restore pictures as they would be saved, in 8 bits, and score them.

    Args:
        restorer: The network.
        pictures: Loaded for a masked network or for a blind one, as this is.

    Returns:
        The scores of each picture in turn, or why there are none.
    """
    for number, picture in enumerate(pictures.source.pictures):
        try:
            yield _scored(restorer, pictures[number], picture.name)
        except WavessmError as error:
            yield Skipped(path=picture.target, reason=str(error))


def _scored(restorer: Restorer, sample: Sample, name: str) -> Scored:
    if sample["name"] != name:  # the set gives another picture where one has been lost
        raise RestoringError("it can no longer be read.")
    mask = sample["mask"][0].bool().numpy() if restorer.masked else None
    restored = restorer.restore(_pixels(sample["image"]), mask)
    output = torch.from_numpy(restored).permute(2, 0, 1).float() / 255
    return Scored(name=name, scores=scores(output, sample["target"], sample["mask"]))


def check_scores_file(path: Path) -> None:
    """Raise RestoringError unless scores can be written to a file of such a name."""
    if path.suffix.lower() not in (".csv", ".json"):
        raise RestoringError(f"Scores can be written to .csv or .json; {path.name} is neither.")


def write_scores(path: Path, scored: Sequence[Scored], failed: Sequence[Skipped]) -> None:
    """Write scores; the file gets its name when it is complete.

    A PSNR is 100 at most, as in means; a score that has no value is empty in CSV and null in JSON.

    Args:
        path: .csv: a line a picture. .json: the means too, and what failed.
        scored: Pictures that have scores.
        failed: Others.
    """
    rows = [{"name": each.name, **_plain(each.scores)} for each in scored]
    with draft(path) as file:
        if path.suffix.lower() == ".csv":
            with file.open("w", newline="", encoding="utf-8") as lines:
                writer = csv.DictWriter(lines, ("name", *NAMES))
                writer.writeheader()
                writer.writerows(rows)
            return
        report = {
            "mean": _plain(mean_scores(each.scores for each in scored)),
            "pictures": rows,
            "failed": [{"path": str(each.path), "reason": each.reason} for each in failed],
        }
        file.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else min(value, BEST_PSNR) for name, value in values.items()}


def _pixels(image: Tensor) -> Pixels:
    """Return floats [3, h, w] in [0, 1] as [h, w, 3]."""
    return np.asarray((image * 255).round().byte().permute(1, 2, 0))
