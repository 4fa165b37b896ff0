"""What a TensorBoard gets to see."""

import math

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wavessm_x.watching import board


def seen(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_numbers_are_shown_at_their_iteration_nan_too(tmp_path):
    with board(tmp_path) as shown:
        shown.numbers(10, {"train/loss": 0.5, "val/psnr": 25.0})
        shown.numbers(20, {"train/loss": float("nan")})
    events = seen(tmp_path)
    assert [(each.step, each.value) for each in events.Scalars("val/psnr")] == [(10, 25.0)]
    assert [each.step for each in events.Scalars("train/loss")] == [10, 20]
    assert math.isnan(events.Scalars("train/loss")[1].value)


def test_a_picture_is_shown(tmp_path):
    Image.fromarray(np.zeros((20, 30, 3), dtype=np.uint8)).save(tmp_path / "s.png")
    with board(tmp_path / "board") as shown:
        shown.picture(10, "samples", tmp_path / "s.png")
    (picture,) = seen(tmp_path / "board").Images("samples")
    assert (picture.step, picture.height, picture.width) == (10, 20, 30)


@pytest.mark.parametrize(("resume_at", "steps"), [(15, [10, 30]), (20, [10, 20, 30])])
def test_a_resumed_training_hides_what_came_after_its_checkpoint(tmp_path, resume_at, steps):
    with board(tmp_path) as shown:
        shown.numbers(10, {"loss": 1.0})
        shown.numbers(20, {"loss": 0.5})
    with board(tmp_path, resume_at=resume_at) as shown:
        shown.numbers(30, {"loss": 0.25})
    assert [each.step for each in seen(tmp_path).Scalars("loss")] == steps
