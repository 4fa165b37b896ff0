"""A trained network beside the classical methods, on photographs that it was not trained on; see README.md."""

import argparse
import csv
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from skimage.restoration import inpaint_biharmonic

from wavessm_x.data.masks import Mask, draw
from wavessm_x.data.reading import Pixels, read
from wavessm_x.metrics import mean_scores, scores
from wavessm_x.model.filling import filled
from wavessm_x.restoring import Restorer
from wavessm_x.watching import grid

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache"
STYLES = {"thin": "lines", "thick": "strokes", "box": "boxes"}
MASKS = 2
RADIUS = 3
"""Of the neighbourhood that OpenCV's methods look at, in pixels, as in its tutorial."""
SHOWN = ("data_coffee", "images_flower")
"""Photographs whose licences allow the grid: CC0, and CC BY."""
SHOWN_SIDE = 192
"""What is shown of them, in pixels."""

CLASSICAL = ("Telea", "Navier-Stokes", "biharmonic")

PAGE = (HERE / "page.md").read_text()

Fill = Callable[[Pixels, Mask], Pixels]


class Case(NamedTuple):
    name: str
    style: str
    picture: Pixels
    mask: Mask


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_file", type=Path, default=CACHE / "inpainting" / "wavessm_x.pth")
    options = parser.parse_args()
    methods = {
        "Telea": lambda picture, mask: by_opencv(picture, mask, cv2.INPAINT_TELEA),
        "Navier-Stokes": lambda picture, mask: by_opencv(picture, mask, cv2.INPAINT_NS),
        "biharmonic": biharmonic,
        "start of training": started,
        "WaveSSM-X": Restorer.load(options.model_file).restore,
    }
    every = list(cases(CACHE / "photographs" / "test"))
    outputs: dict[str, list[Pixels]] = {}
    results: dict[str, dict] = {}
    for method, fill in methods.items():
        began = time.process_time()
        outputs[method] = [fill(hidden(each), each.mask) for each in every]
        seconds = time.process_time() - began
        results[method] = {**measured(every, outputs[method]), "cpu_seconds_a_picture": seconds / len(every)}
        print(method, json.dumps(results[method]), flush=True)
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "README.md").write_text(page(results, len(every), options.model_file))
    draw_grid(every, outputs)
    visualised = options.model_file.parent / "visualizations" / "validation_metrics.png"
    (HERE / "curve.png").write_bytes(visualised.read_bytes())


def cases(folder: Path) -> Iterator[Case]:
    """Give the photographs of a folder, each under every mask."""
    for number, path in enumerate(sorted(folder.iterdir())):
        picture = read(path)
        for at, (style, drawn) in enumerate(STYLES.items()):
            for turn in range(MASKS):
                rng = np.random.default_rng((number, at, turn))
                yield Case(path.stem, style, picture, draw(*picture.shape[:2], rng, style=drawn))


def hidden(case: Case) -> Pixels:
    """Return a photograph with nothing left under its mask."""
    return np.where(case.mask[..., None], np.uint8(0), case.picture)


def by_opencv(picture: Pixels, mask: Mask, kind: int) -> Pixels:
    return cv2.inpaint(picture, mask.astype(np.uint8), RADIUS, kind)


def biharmonic(picture: Pixels, mask: Mask) -> Pixels:
    return as_pixels(torch.from_numpy(inpaint_biharmonic(picture / 255, mask, channel_axis=-1)).permute(2, 0, 1))


def started(picture: Pixels, mask: Mask) -> Pixels:
    """Fill as the network does before it has learnt anything."""
    holes = torch.from_numpy(mask.copy())[None, None].float()
    return as_pixels(filled(as_tensor(picture)[None], holes)[0])


def measured(every: list[Case], outputs: list[Pixels]) -> dict[str, dict[str, float]]:
    """Return the mean scores of each style."""
    found: dict[str, list[dict[str, float]]] = {style: [] for style in STYLES}
    for case, output in zip(every, outputs, strict=True):
        mask = torch.from_numpy(case.mask.copy())[None].float()
        found[case.style].append(scores(as_tensor(output), as_tensor(case.picture), mask))
    means = {style: mean_scores(each) for style, each in found.items()}
    return {style: {name: each[f"{name}_masked"] for name in ("psnr", "ssim")} for style, each in means.items()}


def draw_grid(every: list[Case], outputs: dict[str, list[Pixels]]) -> None:
    """Draw the middle of the photographs that may be shown, what each method makes of them, and the originals."""
    rows = [at for at, each in enumerate(every) if each.name in SHOWN]
    rows = [at for style in STYLES for at in rows[::MASKS] if every[at].style == style]
    columns = {"holes": [middle(hidden(every[at])) for at in rows]}
    columns |= {method: [middle(each[at]) for at in rows] for method, each in outputs.items()}
    grid(HERE / "samples.png", {**columns, "original": [middle(every[at].picture) for at in rows]})


def middle(picture: Pixels) -> torch.Tensor:
    top, left = ((have - SHOWN_SIDE) // 2 for have in picture.shape[:2])
    return as_tensor(picture[top : top + SHOWN_SIDE, left : left + SHOWN_SIDE])


def page(results: dict[str, dict], count: int, model_file: Path) -> str:
    """Write the page of the results."""
    rows = [
        f"| {method} | " + " | ".join(f"{found[s]['psnr']:.2f} / {found[s]['ssim']:.3f}" for s in STYLES)
        + f" | {found['cpu_seconds_a_picture']:.2f} |"
        for method, found in results.items()
    ]  # fmt: skip
    ours, others = results["WaveSSM-X"], [results[each] for each in CLASSICAL]
    beaten = all(ours[s][score] > other[s][score] for other in others for s in STYLES for score in ("psnr", "ssim"))
    said = "WaveSSM-X is above all three" if beaten else "WaveSSM-X is not above all three"
    return PAGE.format(
        table="\n".join(rows), count=count, said=said, minutes=minutes_of(model_file), cores=os.cpu_count(),
        python=platform.python_version(), torch=torch.__version__,
    )  # fmt: skip


def minutes_of(model_file: Path) -> float:
    """Return how long a training took, by the clock, from its log."""
    (log,) = (model_file.parent / "logs").glob("training_*.csv")
    first, *_, last = (datetime.fromisoformat(at) for at in timestamps(log))
    return (last - first).total_seconds() / 60


def timestamps(log: Path) -> list[str]:
    with log.open(newline="") as file:
        return [row["timestamp"] for row in csv.DictReader(file)]


def as_tensor(picture: Pixels) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float() / 255


def as_pixels(image: torch.Tensor) -> Pixels:
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


if __name__ == "__main__":
    main()
