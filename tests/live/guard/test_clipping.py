"""Clipping equals torch's on finite gradients, and never sees others."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from live.guard.training import batch, kept, net, same
from strategies import quick
from torchmend.facts.errors import UserError
from torchmend.live.guard.clipping import By, Clip, Clipper
from torchmend.live.guard.guard import Guard


def train(model, optimizer, images, labels, clip=None):
    optimizer.zero_grad()
    functional.cross_entropy(model(images), labels).backward()
    if clip:
        clip(list(model.parameters()))
    optimizer.step()


@pytest.mark.parametrize(
    ("clip", "same_as"),
    [
        (Clip(limit=0.05), lambda p: torch.nn.utils.clip_grad_norm_(p, 0.05)),
        (Clip(by=By.VALUE, limit=0.01), lambda p: torch.nn.utils.clip_grad_value_(p, 0.01)),
    ],
    ids=["norm", "value"],
)
def test_clipping_is_that_of_torch(clip, same_as):
    models = [net(), net()]
    optimizers = [torch.optim.SGD(each.parameters(), 0.1) for each in models]
    with Guard(models[0], optimizers[0], clip=clip):
        for seed in range(3):
            train(models[0], optimizers[0], *batch(seed))
    for seed in range(3):
        train(models[1], optimizers[1], *batch(seed), clip=same_as)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_bad_batch_leaves_nothing_in_the_clipper():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer, clip=Clip(by=By.PERCENTILE, limit=50.0)) as guard:
        for bad in (None, None, float("nan"), None):
            train(model, optimizer, *batch(0, bad=bad))
        assert len(guard.transactions[0].clipper.norms) == 3
        assert np.isfinite(guard.transactions[0].clipper.norms).all()


@quick
@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=30), st.floats(1, 100))
def test_a_percentile_is_that_of_numpy(norms, percentile):
    clipper = Clipper(Clip(by=By.PERCENTILE, limit=percentile, window=100))
    clipper.norms.extend(norms)
    parameter = torch.zeros(2, requires_grad=True)
    parameter.grad = torch.tensor([3.0, 4.0]) * 1000
    clipper.note(5000.0, [parameter])
    clipper.clip([parameter])
    expected = min(float(np.percentile(norms, percentile)), 5000.0)
    assert float(parameter.grad.norm()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_limit_without_a_meaning_is_refused(limit):
    with pytest.raises(UserError, match="it must be above 0"):
        Clip(limit=limit)


def test_a_percentile_beyond_a_hundred_is_refused():
    with pytest.raises(UserError, match="at most 100"):
        Clip(by=By.PERCENTILE, limit=101.0)


def test_a_norm_below_the_limit_changes_no_bit():
    models = [net(), net()]
    optimizers = [torch.optim.SGD(each.parameters(), 0.1) for each in models]
    with Guard(models[0], optimizers[0], clip=Clip(limit=1e6)):
        train(models[0], optimizers[0], *batch(0))
    train(models[1], optimizers[1], *batch(0))
    assert same(kept(models[0]), kept(models[1]))
