"""The curves: which files are drawn, and what can be seen in them."""

import math

import numpy as np
import pytest
from PIL import Image

from wavessm_x.watching import CsvLog, LogError, curves

NAN, INF = float("nan"), float("inf")
NAMES = ["training_curves.png", "loss_breakdown.png", "validation_metrics.png"]
RED, GREEN, BLUE = (192, 57, 43), (46, 125, 50), (31, 78, 121)


def log(path, values, edge=0.05):
    with CsvLog(path) as file:
        for at, value in enumerate(values, start=1):
            parts = {"l1": value, "perceptual": 0.0, "ssim": 0.5 / at, "edge": edge, "freq": 0.3}
            rest = {"lr": 1e-4 / at, "grad_norm": 1.0 + at % 3, "iter_time": 0.2, "gpu_mem_mb": 0.0}
            file.write(10 * at, {"total_loss": value, **rest}, parts)
    return path


def validations(*psnrs):
    return [{"iteration": 100 * at, "val_loss": 1 / at, "psnr": psnr, "ssim": 0.5} for at, psnr in enumerate(psnrs, 1)]


def pixels(path, colour):
    return int((np.asarray(Image.open(path).convert("RGB")) == colour).all(axis=2).sum())


def test_three_pictures_are_drawn_and_their_names_returned(tmp_path):
    drawn = curves(log(tmp_path / "log.csv", [1.0, 0.5, 0.25]), validations(20.0, 25.0), tmp_path / "visualizations")
    assert [path.name for path in drawn] == NAMES
    assert all(pixels(path, BLUE) > 50 for path in drawn)
    assert not any(pixels(path, RED) for path in drawn)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_what_is_not_finite_is_marked_red(tmp_path, bad):
    drawn = curves(log(tmp_path / "log.csv", [1.0, bad, 0.25]), validations(20.0, bad, 22.0), tmp_path)
    assert all(pixels(path, RED) > 20 for path in drawn)


def test_the_best_validation_is_marked_and_nan_never_is(tmp_path):
    *_, some = curves(log(tmp_path / "log.csv", [1.0]), validations(NAN, 20.0, NAN), tmp_path / "some")
    history = [{"iteration": 100, "val_loss": NAN, "psnr": NAN, "ssim": NAN}]
    *_, none = curves(tmp_path / "log.csv", history, tmp_path / "none")
    assert pixels(some, GREEN) > 50
    assert pixels(none, GREEN) == 0
    assert pixels(none, RED) > 20


@pytest.mark.parametrize("values", [[], [0.5], [NAN, NAN], [0.0, 0.0], [1e30, 1e-30]])
def test_a_training_that_has_just_begun_or_went_wrong_is_drawn(tmp_path, values):
    assert [path.name for path in curves(log(tmp_path / "log.csv", values), [], tmp_path)] == NAMES


def test_gradient_norms_that_are_all_zero_or_lost_are_drawn(tmp_path):
    with CsvLog(tmp_path / "log.csv") as file:
        for at, norm in enumerate([0.0, 0.0, math.inf], 1):
            rest = {"total_loss": 1.0, "lr": 1e-4, "grad_norm": norm, "iter_time": 0.2, "gpu_mem_mb": 0.0}
            file.write(at, rest, dict.fromkeys(("l1", "perceptual", "ssim", "edge", "freq"), 0.1))
    assert len(curves(tmp_path / "log.csv", [], tmp_path)) == 3


def test_a_term_that_was_off_leaves_its_panel_empty(tmp_path):
    _, on, _ = curves(log(tmp_path / "on.csv", [1.0, 0.5, 0.25]), [], tmp_path / "on")
    _, off, _ = curves(log(tmp_path / "off.csv", [1.0, 0.5, 0.25], edge=0.0), [], tmp_path / "off")
    height, width = np.asarray(Image.open(on)).shape[:2]
    panels = [np.asarray(Image.open(path).convert("RGB"))[height // 2 :, : width // 3] for path in (on, off)]
    lines = [int((panel == BLUE).all(axis=2).sum()) for panel in panels]
    assert lines[0] > 50
    assert lines[1] == 0


def test_a_damaged_log_is_told(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("nonsense\n")
    with pytest.raises(LogError, match="begins with 'nonsense'"):
        curves(path, [], tmp_path)
