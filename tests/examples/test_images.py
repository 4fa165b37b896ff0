"""A foreign training loop of a ResNet, guarded by one line."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from examples.images import train_images
from examples.images.train_images import Options, options_from, train

SMALL = Options(epochs=2, channels=8, device="cpu")


@pytest.mark.parametrize("average", [False, True])
def test_a_clean_run_is_the_same_with_and_without_the_guard(average):
    options = replace(SMALL, average=average)
    assert train(options) == train(replace(options, guard=False))


@pytest.mark.parametrize("average", [False, True])
def test_one_broken_pixel_ruins_the_loop_and_not_the_guarded_one(average):
    options = replace(SMALL, average=average, channels=8, epochs=3)
    clean, guarded = train(options), train(replace(options, plant=30))
    assert guarded.accuracy >= clean.accuracy - 0.05
    assert guarded.loss <= clean.loss * 1.25
    assert math.isnan(train(replace(options, plant=30, guard=False)).loss)


def test_the_command_line_has_an_option_for_each_field():
    options = options_from(["--plant", "3", "--no-guard", "--average"])
    assert (options.plant, options.guard, options.average) == (3, False, True)


def test_torchmend_is_imported_and_used_in_one_line_each():
    source = Path(train_images.__file__).read_text()
    assert [line.strip() for line in source.splitlines() if "torchmend" in line] == [
        "import torchmend",
        "torchmend.Guard(model, optimizer, scheduler=scheduler, ema=average)  # the one added line",
    ]
