"""A validation survives pictures that fail, and says how many did."""

import logging
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from wavessm_x.training.validation import validate

CPU = torch.device("cpu")


def sample(name, value=0.5):
    target = torch.full((3, 16, 16), value)
    mask = torch.zeros(1, 16, 16)
    mask[:, :8] = 1
    return {"image": target * (1 - mask), "target": target, "mask": mask, "name": name}


class Flaky(nn.Module):
    """Gives pictures back, but fails or is not finite for some."""

    def __init__(self, failing=()):
        super().__init__()
        self.failing, self.count = failing, 0

    def forward(self, image, _mask=None):
        self.count += 1
        if self.count - 1 in self.failing:
            raise RuntimeError("out of memory")
        return image if image.max() <= 1 else image / 0


def test_pictures_that_fail_are_named_and_counted(caplog):
    caplog.set_level(logging.INFO)
    pictures = [sample("a"), sample("b"), sample("c", 7.0)]
    found = validate(Flaky({1}), pictures, functional.l1_loss, CPU)
    assert (found.succeeded, found.failed) == (1, 2)
    assert found.val_loss == pytest.approx(0.25)
    assert "[VAL ERROR] Batch 1 failed: out of memory" in caplog.text
    assert "[VAL ERROR] Batch 2 failed: the output for c is not finite" in caplog.text
    assert "[INFO] 2 validation batches failed, 1 succeeded" in caplog.text


def test_none_that_succeeds_is_no_error(caplog):
    found = validate(Flaky({0}), [sample("a")], functional.l1_loss, CPU)
    assert math.isnan(found.psnr)
    assert "[WARN] Validation produced 0 valid batches! (1 failed)" in caplog.text


def test_the_mode_is_restored():
    model = Flaky().train()
    validate(model, [sample("a")], functional.l1_loss, CPU)
    assert model.training
    validate(model.eval(), [sample("a")], functional.l1_loss, CPU)
    assert not model.training


def test_scores_are_means_over_pictures_and_skip_what_has_none():
    whole = sample("b", 0.25)
    whole["mask"] = torch.zeros(1, 16, 16)
    whole["image"] = whole["target"] + 0.1
    found = validate(Flaky(), [sample("a"), whole], functional.l1_loss, CPU)
    assert found.psnr_masked == pytest.approx(-10 * math.log10(0.25), rel=1e-4)
    assert found.psnr == pytest.approx((-10 * math.log10(0.125) + 20) / 2, rel=1e-3)
