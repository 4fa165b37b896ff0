"""Steps with a closure, by optimizers that call it once: they are as those without, and nothing is copied for them."""

import pytest
import torch
from torch.nn import functional

from live.guard.training import OPTIMIZERS, batch, kept, net, same
from torchmend.live.guard.clipping import Clip
from torchmend.live.guard.guard import Guard

NAN = float("nan")
ONCE = [each for each in OPTIMIZERS if not each.name.startswith("care")]


def closure_of(model, optimizer, images, labels):
    def closure():
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("kind", ONCE, ids=lambda kind: kind.name)
def test_a_refused_closure_leaves_every_byte_as_it_was(kind):
    model = net()
    optimizer = kind.make(list(model.parameters()))
    with Guard(model, optimizer):
        optimizer.step(closure_of(model, optimizer, *batch(0)))
        state = kept(model, optimizer)
        optimizer.step(closure=closure_of(model, optimizer, *batch(1, bad=NAN)))
        assert same(kept(model, optimizer), state)
        optimizer.step(closure_of(model, optimizer, *batch(2)))
        assert not same(kept(model, optimizer), state)


@pytest.mark.parametrize("kind", ONCE, ids=lambda kind: kind.name)
@pytest.mark.parametrize("options", [{}, {"clip": Clip(limit=0.1)}], ids=["plain", "clipped"])
def test_a_step_with_a_closure_is_the_step_without(kind, options):
    models = [net(), net()]
    optimizers = [kind.make(list(each.parameters())) for each in models]
    for model, optimizer, with_closure in zip(models, optimizers, (True, False), strict=True):
        with Guard(model, optimizer, **options):
            for seed in range(3):
                closure = closure_of(model, optimizer, *batch(seed))
                if with_closure:
                    optimizer.step(closure)
                else:
                    closure()
                    optimizer.step()
    assert same(kept(models[0], optimizers[0]), kept(models[1], optimizers[1]))


def test_a_step_returns_what_its_closure_did_and_calls_it_once():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        return closure_of(model, optimizer, *batch(0))()

    with Guard(model, optimizer), torch.no_grad():
        loss = optimizer.step(closure)
    assert loss.item() == pytest.approx(functional.cross_entropy(net()(batch(0)[0]), batch(0)[1]).item())
    assert calls == [True]


def test_a_closure_without_a_backward_pass_leaves_no_damaged_buffer():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    with Guard(model, optimizer):
        optimizer.step(lambda: model(batch(0, bad=NAN)[0]).mean())
    assert model.bn.running_mean.isfinite().all()


def test_no_copy_is_taken_for_a_step_with_a_closure():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    with Guard(model, optimizer) as guard:
        standstills = []
        optimizer.register_step_pre_hook(lambda *_: standstills.append(guard.transactions[0]._standstill))
        optimizer.step(closure_of(model, optimizer, *batch(0)))
        optimizer.step(closure_of(model, optimizer, *batch(0, bad=NAN)))
    assert standstills == [None, None]


def test_a_step_with_a_closure_can_be_lazy():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    with Guard(model, optimizer, lazy=True):
        optimizer.step(closure_of(model, optimizer, *batch(0)))
        state = kept(model, optimizer)
        optimizer.step(closure_of(model, optimizer, *batch(1, bad=NAN)))
        assert same(kept(model, optimizer), state)


def test_good_micro_batches_of_a_window_that_ends_in_a_closure_count_for_those_that_were_dropped():
    models = [net(), net()]
    optimizers = [torch.optim.SGD(each.parameters(), 0.1) for each in models]

    def part(model, seed, parts, bad=None):
        images, labels = batch(seed, bad=bad)
        (functional.cross_entropy(model(images), labels) / parts).backward()

    with Guard(models[0], optimizers[0], drop_micro_batches=True):
        part(models[0], 0, 2, bad=NAN)
        optimizers[0].step(lambda: part(models[0], 1, 2))
    part(models[1], 1, 1)
    optimizers[1].step()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)
