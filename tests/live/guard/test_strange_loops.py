"""Loops that do what ordinary ones do not: errors half-way, gradients by hand, parameters that thaw."""

import pytest
import torch
from torch.nn import functional

from live.guard.training import batch, kept, net, same, train
from torchmend.live.guard.guard import Guard

NAN = float("nan")


def guarded(**options):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return model, optimizer, Guard(model, optimizer, **options)


def test_the_guard_still_sees_after_a_backward_pass_that_ended_in_an_error():
    model, optimizer, guard = guarded()

    def fail(_):
        raise RuntimeError("out of memory")

    handle = model.conv.weight.register_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        train(model, optimizer, *batch(0))
    handle.remove()
    train(model, optimizer, *batch(1, bad=NAN))
    assert guard.events.counts["refuse"] == 1
    assert bool(model.conv.weight.isfinite().all())


def test_parameters_that_thaw_after_the_guard_was_made_are_guarded():
    model = net()
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer):
        train(model, optimizer, *batch(0))
        model.requires_grad_(True)
        model.head.requires_grad_(False)
        state = kept(model)
        train(model, optimizer, *batch(1, bad=NAN))
        assert same(kept(model), state)


def test_a_group_that_is_added_later_is_guarded():
    model = net()
    optimizer = torch.optim.SGD(model.head.parameters(), 0.1)
    with Guard(model, optimizer):
        train(model, optimizer, *batch(0))
        optimizer.add_param_group({"params": [*model.conv.parameters(), *model.bn.parameters()]})
        model.head.requires_grad_(False)
        state = kept(model)
        train(model, optimizer, *batch(1, bad=NAN))
        assert same(kept(model), state)


def test_gradients_that_were_put_there_by_hand_are_judged_when_the_step_begins():
    model, optimizer, guard = guarded()
    state = kept(model)
    images, labels = batch(0)
    loss = functional.cross_entropy(model(images), labels)
    parameters = list(model.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient * NAN
    optimizer.step()
    assert guard.events.counts["refuse"] == 1
    assert same(kept(model), state)


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
def test_a_refused_window_stays_refused_when_gradients_keep_their_graph():
    model, optimizer, _ = guarded()
    state = kept(model)
    for seed, bad in enumerate((None, NAN, None)):
        images, labels = batch(seed, bad=bad)
        functional.cross_entropy(model(images), labels).backward(create_graph=True)
    optimizer.step()
    assert same(kept(model), state)


class Evaluating(torch.optim.SGD):
    """A user's optimizer that asks its closure, and does not ask whether there are gradients."""

    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.sub_(parameter.grad, alpha=0.1)
        return loss


def test_a_refused_closure_leaves_gradients_to_optimizers_that_do_not_ask_for_them():
    model = net()
    optimizer = Evaluating(model.parameters(), 0.1)
    images, labels = batch(0, bad=NAN)

    def closure():
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    with Guard(model, optimizer):
        state = kept(model)
        optimizer.step(closure)
        assert same(kept(model), state)
