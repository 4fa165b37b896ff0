"""Under a GradScaler: what it refuses is reverted too, and what the guard refuses is no success of its."""

import pytest
import torch
from torch.nn import functional

from live.guard.training import batch, kept, net, same
from torchmend.live.guard.guard import Guard


def scaler(**fields):
    return torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=3, **fields)


def train(model, optimizer, scaling, images, labels, *, unscale=False):
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(images), labels)
    scaling.scale(loss).backward()
    if unscale:
        scaling.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaling.step(optimizer)
    scaling.update()


def adam(model, **fields):
    return torch.optim.AdamW(model.parameters(), 0.01, **fields)


fused = pytest.mark.parametrize("fused", [False, True])
unscale = pytest.mark.parametrize("unscale", [False, True])


@fused
@unscale
@pytest.mark.parametrize("before", [0, 2])
def test_a_step_that_the_scaler_refuses_is_reverted_whole(fused, unscale, before):
    model = net()
    optimizer, scaling = adam(model, fused=fused), scaler()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    with Guard(model, optimizer, scaler=scaling, scheduler=scheduler):
        for seed in range(before):
            train(model, optimizer, scaling, *batch(seed), unscale=unscale)
            scheduler.step()
        state = kept(model, optimizer, scheduler)
        train(model, optimizer, scaling, *batch(9, bad=float("inf")), unscale=unscale)
        scheduler.step()
        assert same(kept(model, optimizer, scheduler), state)


@fused
def test_the_scaler_still_backs_off(fused):
    model = net()
    optimizer, scaling = adam(model, fused=fused), scaler()
    with Guard(model, optimizer, scaler=scaling):
        train(model, optimizer, scaling, *batch(9, bad=float("inf")))
    assert scaling.get_scale() == 2.0**7


@unscale
def test_a_step_that_the_guard_refuses_is_no_success_of_the_scaler(unscale):
    """Statistics alone are broken: the scaler sees nothing, and must not count the step towards growth."""
    model = net()
    optimizer, scaling = adam(model), scaler()
    images, labels = batch(0)
    images[0, 0, 0, 0] = 3e20
    with Guard(model, optimizer, scaler=scaling) as guard:
        train(model, optimizer, scaling, *batch(1), unscale=unscale)
        before = scaling.state_dict()
        train(model, optimizer, scaling, images, labels, unscale=unscale)
        assert guard.events.counts["refuse"] == 1
        assert scaling.state_dict() == before
        train(model, optimizer, scaling, *batch(2), unscale=unscale)
        assert scaling.state_dict()["_growth_tracker"] == before["_growth_tracker"] + 1


def test_healthy_steps_are_those_of_an_unguarded_run():
    runs = []
    for guarded in (False, True):
        model = net()
        optimizer, scaling = adam(model), scaler()
        guard = Guard(model, optimizer, scaler=scaling) if guarded else None
        for seed in range(5):
            train(model, optimizer, scaling, *batch(seed), unscale=True)
        runs.append(kept(model, optimizer, scaling))
        if guard is not None:
            assert not guard.events.decisions
            guard.detach()
    assert same(runs[0], runs[1])


def test_a_detached_scaler_is_as_it_was():
    model = net()
    optimizer, scaling = adam(model), scaler()
    with Guard(model, optimizer, scaler=scaling):
        assert type(scaling) is not torch.amp.GradScaler
    assert type(scaling) is torch.amp.GradScaler


def test_a_disabled_scaler_changes_nothing():
    model = net()
    optimizer, scaling = adam(model), scaler(enabled=False)
    with Guard(model, optimizer, scaler=scaling):
        state = kept(model, optimizer)
        train(model, optimizer, scaling, *batch(9, bad=float("nan")))
        assert same(kept(model, optimizer), state)
        train(model, optimizer, scaling, *batch(1))
        assert not same(kept(model, optimizer), state)
