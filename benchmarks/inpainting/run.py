"""A trained network beside the classical methods, on photographs that it was not trained on.

    python benchmarks/inpainting/photographs.py
    wavessm train --data_path .cache/photographs/train --model_file .cache/inpainting/wavessm_x.pth ...  (see README.md)
    python benchmarks/inpainting/run.py [--model_file .cache/inpainting/wavessm_x.pth]

Every photograph is filled under two masks of each of three styles, drawn from fixed seeds; PSNR and SSIM are those of
the masked region, each the mean over pictures.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
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
SHOWN = 2
"""Pictures of each style in the grid."""

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
    draw_grid(every, outputs)


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
    """Draw the first pictures of each style, what each method makes of them, and the originals."""
    of_style = {style: [at for at, each in enumerate(every) if each.style == style] for style in STYLES}
    step = len(of_style["thin"]) // SHOWN
    rows = [at for each in of_style.values() for at in each[step // 2 :: step]]
    columns = {"holes": [as_tensor(hidden(every[at])) for at in rows]}
    columns |= {method: [as_tensor(each[at]) for at in rows] for method, each in outputs.items()}
    grid(HERE / "samples.png", {**columns, "original": [as_tensor(every[at].picture) for at in rows]})


def as_tensor(picture: Pixels) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float() / 255


def as_pixels(image: torch.Tensor) -> Pixels:
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


if __name__ == "__main__":
    main()
