"""A step that is refused leaves every byte of every state as it was."""

import contextlib

import pytest
import torch
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from live.guard.training import OPTIMIZERS, Kind, batch, kept, net, same, train
from torchmend.facts.errors import TrainingStoppedError
from torchmend.live.guard.decisions import Action
from torchmend.live.guard.guard import Guard

BAD = [float("nan"), float("inf"), 1e38]
kinds = pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.name)


@kinds
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("before", [0, 3])
def test_a_refused_step_leaves_every_byte_as_it_was(kind: Kind, bad: float, before: int):
    model = net()
    optimizer = kind.make(list(model.parameters()))
    with Guard(model, optimizer) as guard:
        for seed in range(before):
            train(model, optimizer, *batch(seed))
        state = kept(model, optimizer)
        train(model, optimizer, *batch(9, bad=bad))
        assert guard.events.counts["refuse"] == 1
        assert same(kept(model, optimizer), state)


@kinds
def test_training_goes_on_as_if_the_bad_batch_had_not_been(kind: Kind):
    models, optimizers = [net(), net()], []
    for model, seeds in zip(models, ([0, 1, None, 2, 3], [0, 1, 2, 3]), strict=True):
        optimizers.append(optimizer := kind.make(list(model.parameters())))
        guard = Guard(model, optimizer)
        for seed in seeds:
            train(model, optimizer, *(batch(9, bad=float("nan")) if seed is None else batch(seed)))
        guard.detach()
    assert same(*[kept(*pair) for pair in zip(models, optimizers, strict=True)])


def closure_step(model, optimizer, images, labels):
    def closure():
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_a_refused_closure_leaves_every_byte_as_it_was(bad, search):
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, line_search_fn=search)
    with Guard(model, optimizer) as guard:
        closure_step(model, optimizer, *batch(0))
        state = kept(model, optimizer)
        closure_step(model, optimizer, *batch(9, bad=bad))
        assert guard.events.counts["refuse"] >= 1
        assert same(kept(model, optimizer), state)
        closure_step(model, optimizer, *batch(1))
        assert not same(kept(model, optimizer), state)


def test_scheduler_and_average_are_held_with_the_step():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    average = AveragedModel(model, use_buffers=True)
    with Guard(model, optimizer, scheduler=scheduler, ema=average):
        for bad in (None, None):
            train(model, optimizer, *batch(0, bad=bad))
            scheduler.step()
            average.update_parameters(model)
        state = kept(model, optimizer, scheduler, average)
        train(model, optimizer, *batch(9, bad=float("nan")))
        scheduler.step()
        average.update_parameters(model)
        assert same(kept(model, optimizer, scheduler, average), state)


def test_a_scheduler_that_steps_once_an_epoch_is_not_held():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    with Guard(model, optimizer, scheduler=scheduler):
        for bad in (None, None, float("nan")):
            train(model, optimizer, *batch(0, bad=bad))
        scheduler.step()
    assert scheduler.last_epoch == 1


def test_a_scheduler_may_be_left_to_step():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    with Guard(model, optimizer, scheduler=scheduler, hold_scheduler=False):
        train(model, optimizer, *batch(0, bad=float("nan")))
        scheduler.step()
    assert scheduler.last_epoch == 1


def test_a_batch_that_breaks_statistics_alone_is_refused():
    """One value of 1e20: its square overflows in the variance, while loss and gradients stay finite."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    images, labels = batch(0)
    images[0, 0, 0, 0] = 3e20
    with Guard(model, optimizer) as guard:
        state = kept(model)
        train(model, optimizer, images, labels)
        assert guard.events.decisions[0].origin == "bn.running_var"
        assert same(kept(model), state)


def test_accumulated_micro_batches_are_refused_together():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer):
        state = kept(model)
        optimizer.zero_grad()
        for bad in (None, float("nan"), None, None):
            functional.cross_entropy(model(batch(0, bad=bad)[0]), batch(0)[1]).backward()
        optimizer.step()
        assert same(kept(model), state)
        train(model, optimizer, *batch(1))
        assert not same(kept(model), state)


def test_a_gan_s_other_half_is_not_refused_with_it():
    torch.manual_seed(0)
    generator, critic = net(0), net(1)
    optimizers = [torch.optim.SGD(each.parameters(), 0.1) for each in (generator, critic)]
    with Guard([generator, critic], optimizers) as guard:
        before = kept(generator, critic)
        (critic(batch(0)[0]).mean() + generator(batch(0, bad=float("nan"))[0]).mean()).backward()
        optimizers[0].step()
        optimizers[1].zero_grad()
        critic(batch(0)[0]).mean().backward()
        optimizers[1].step()
        assert same(kept(generator), before[:1])
        assert not same(kept(critic), before[1:])
        assert guard.steps == 1


def test_a_fault_in_every_step_stops_with_an_explanation():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    state = kept(model)
    with Guard(model, optimizer):
        for _ in range(7):
            train(model, optimizer, *batch(0, bad=float("nan")))
        with pytest.raises(TrainingStoppedError, match="so the fault is in the set-up"):
            train(model, optimizer, *batch(0, bad=float("nan")))
    assert same(kept(model), state)


def test_observing_only_changes_nothing_and_says_what_it_would_have_done():
    twins = [net(), net()]
    optimizers = [torch.optim.SGD(each.parameters(), 0.1) for each in twins]
    with Guard(twins[0], optimizers[0], observe_only=True) as guard:
        for model, optimizer in zip(twins, optimizers, strict=True):
            for bad in (None, float("nan"), None):
                train(model, optimizer, *batch(0, bad=bad))
    assert same(kept(twins[0]), kept(twins[1]))
    assert guard.events.decisions[0].action is Action.REFUSE


def test_a_callback_may_decide_otherwise():
    from dataclasses import replace

    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer, on_decision=lambda decision: replace(decision, action=Action.LOG)):
        train(model, optimizer, *batch(0, bad=float("nan")))
    assert model.conv.weight.isnan().any()


def test_the_environment_switches_the_guard_off(monkeypatch):
    monkeypatch.setenv("TORCHMEND_GUARD", "off")
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    Guard(model, optimizer)
    train(model, optimizer, *batch(0, bad=float("nan")))
    assert model.conv.weight.isnan().any()


def test_a_norm_that_overflows_on_finite_gradients_is_no_fault():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    images, labels = batch(0)
    with Guard(model, optimizer) as guard:
        optimizer.zero_grad()
        (functional.cross_entropy(model(images), labels) * 1e30).backward()
        optimizer.step()
    assert not guard.events.decisions


def test_an_exception_in_an_explicit_step_undoes_the_forward_pass():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    guard = Guard(model, optimizer)
    state = kept(model)
    with contextlib.suppress(KeyboardInterrupt), guard.step():
        model(batch(0)[0])
        raise KeyboardInterrupt
    assert same(kept(model), state)


def test_an_explicit_step_says_that_it_was_refused():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    guard = Guard(model, optimizer)
    with guard.step() as step:
        images, labels = batch(0, bad=float("nan"))
        step.backward(functional.cross_entropy(model(images), labels))
        assert step.refused
        optimizer.step()
