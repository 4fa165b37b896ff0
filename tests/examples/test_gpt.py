"""A foreign training loop of a GPT, guarded by one line."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from examples.gpt import train_gpt
from examples.gpt.train_gpt import Options, options_from, train
from live.guard.training import same

SMALL = Options(steps=40, batch=8, layers=1, channels=32, warm_up=5, evaluate_every=20, device="cpu")


def test_a_clean_run_is_the_same_to_the_last_bit_with_and_without_the_guard(tmp_path):
    states = []
    for guard in (True, False):
        path = str(tmp_path / f"{guard}.pt")
        train(replace(SMALL, guard=guard, checkpoint=path))
        states.append(torch.load(path, weights_only=True))
    assert same(*states)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_poisoned_batch_ruins_the_loop_and_not_the_guarded_one(dtype):
    options = replace(SMALL, dtype=dtype)
    clean, guarded = train(options), train(replace(options, plant=20))
    assert guarded == pytest.approx(clean, rel=0.05)
    assert math.isnan(train(replace(options, plant=20, guard=False)))


def test_float16_with_a_scaler_goes_on_as_well():
    assert train(replace(SMALL, dtype="float16", plant=20)) == pytest.approx(train(SMALL), rel=0.05)


def test_an_interrupted_run_goes_on_to_where_it_would_have_come(tmp_path):
    whole, resumed = (replace(SMALL, checkpoint=str(tmp_path / name)) for name in ("whole.pt", "resumed.pt"))
    train(whole)
    train(replace(resumed, until=20))
    train(replace(resumed, resume=True))
    assert same(*(torch.load(each.checkpoint, weights_only=True) for each in (whole, resumed)))


def test_the_command_line_has_an_option_for_each_field():
    options = options_from(["--plant", "3", "--no-guard", "--evaluate-every", "7", "--resume"])
    assert (options.plant, options.guard, options.evaluate_every, options.resume) == (3, False, 7, True)


def test_torchmend_is_imported_and_used_in_one_line_each():
    source = Path(train_gpt.__file__).read_text()
    assert [line.strip() for line in source.splitlines() if "torchmend" in line] == [
        "import torchmend",
        "torchmend.Guard(model, optimizer, scaler=scaler, scheduler=scheduler)  # the one added line",
    ]
