"""One bad micro-batch is dropped alone: the step is that of the others, as if they had been all."""

import pytest
import torch
from torch.nn import functional

from live.guard.training import OPTIMIZERS, batch, kept, net, same
from torchmend.facts.errors import TrainingStoppedError
from torchmend.live.guard.guard import Guard

NAN = float("nan")
sgd = next(kind for kind in OPTIMIZERS if kind.name == "SGD-momentum")


def window(model, optimizer, bad_at, parts=4):
    optimizer.zero_grad()
    for part in range(parts):
        images, labels = batch(part, bad=NAN if part in bad_at else None)
        (functional.cross_entropy(model(images), labels) / parts).backward()
    optimizer.step()


@pytest.mark.parametrize("bad_at", [{0}, {1}, {3}, {0, 2}, {1, 2, 3}])
def test_the_others_count_for_it(bad_at):
    guarded, plain = net(), net()
    optimizers = [sgd.make(list(each.parameters())) for each in (guarded, plain)]
    with Guard(guarded, optimizers[0], drop_micro_batches=True) as guard:
        window(guarded, optimizers[0], bad_at)
        assert guard.events.counts["refuse"] == len(bad_at)
    optimizers[1].zero_grad()
    good = [part for part in range(4) if part not in bad_at]
    for part in good:
        images, labels = batch(part)
        (functional.cross_entropy(plain(images), labels) / len(good)).backward()
    optimizers[1].step()
    for one, other in zip(guarded.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert guarded.bn.num_batches_tracked == len(good)


def test_a_window_of_bad_ones_is_refused_whole():
    model = net()
    optimizer = sgd.make(list(model.parameters()))
    with Guard(model, optimizer, drop_micro_batches=True):
        state = kept(model, optimizer)
        window(model, optimizer, {0, 1, 2, 3})
        assert same(kept(model, optimizer), state)
        window(model, optimizer, set())
        assert not same(kept(model, optimizer), state)


def test_a_window_of_good_ones_is_not_touched():
    models = [net(), net()]
    optimizers = [sgd.make(list(each.parameters())) for each in models]
    with Guard(models[0], optimizers[0], drop_micro_batches=True):
        window(models[0], optimizers[0], set())
    window(models[1], optimizers[1], set())
    assert same(kept(models[0], optimizers[0]), kept(models[1], optimizers[1]))


def test_many_bad_micro_batches_of_one_step_are_one_step_towards_stopping():
    model = net()
    optimizer = sgd.make(list(model.parameters()))
    with Guard(model, optimizer, drop_micro_batches=True):
        state = kept(model, optimizer)
        for _ in range(7):
            window(model, optimizer, range(10), parts=10)
        assert same(kept(model, optimizer), state)
        with pytest.raises(TrainingStoppedError, match="8 of the last 8 steps"):
            window(model, optimizer, range(10), parts=10)
