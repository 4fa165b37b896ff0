"""A guarded model may be traced, exported and transformed; the guard stays out of what cannot be read or kept."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional

from live.guard.training import batch, kept, net, same, train
from torchmend.live.guard.guard import Guard

NAN = float("nan")


@pytest.fixture
def guarded():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer) as guard:
        train(model, optimizer, *batch(0))
        yield model, optimizer, guard


def traced(model, images):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(model, images)


def exported(model, images):
    return torch.export.export(model, (images,)).module()


def exported_strictly(model, images):
    return torch.export.export(model, (images,), strict=True).module()


@pytest.mark.parametrize("through", [traced, exported, exported_strictly])
def test_a_guarded_model_can_be_exported_without_a_trace_of_the_guard(guarded, through):
    model, _, _ = guarded
    model.eval()
    images = batch(1)[0]
    twin = copy.deepcopy(model)
    out = through(model, images)
    torch.testing.assert_close(out(batch(2)[0]), twin(batch(2)[0]))


def test_statistics_are_still_checked_at_the_first_evaluation_after_an_export(guarded):
    model, _, _ = guarded
    model.bn.running_mean[0] = NAN
    model.eval()
    exported(model, batch(1)[0])
    assert model(batch(1)[0]).isfinite().all()


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_an_ensemble_is_evaluated_through_a_guarded_model(guarded, mode):
    model, optimizer, guard = guarded
    model.bn = nn.GroupNorm(2, 6) if mode == "train" else model.bn
    model.register_buffer("scale", torch.ones(1))
    guard.detach()
    with Guard(model, optimizer):
        state = kept(model)
        getattr(model, mode)()
        members = [copy.deepcopy(model), copy.deepcopy(model)]
        parameters, buffers = stack_module_state(members)
        out = vmap(lambda p, b, x: functional_call(model, (p, b), (x,)), in_dims=(0, 0, None))(
            parameters, buffers, batch(1)[0]
        )
        assert out.shape == (2, 8, 4)
        model.train()
        train(model, optimizer, *batch(2, bad=NAN))
        assert same(kept(model), state)


def test_gradients_of_each_sample_go_into_a_guarded_step(guarded):
    model, optimizer, guard = guarded
    model.eval()
    parameters = {name: each.detach() for name, each in model.named_parameters()}

    def loss(parameters, image, label):
        return functional.cross_entropy(functional_call(model, parameters, (image[None],)), label[None])

    state = kept(model)
    each = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, *batch(1, bad=NAN))
    for name, parameter in model.named_parameters():
        parameter.grad = each[name].mean(0)
    optimizer.step()
    assert guard.events.counts["refuse"] == 1
    assert same(kept(model), state)


def with_buffers_of_its_own(model, images):
    """Call the model as a teacher is: other parameters and buffers lie in it, for the call only."""
    weights = {name: each.detach().clone() for name, each in model.named_parameters()}
    buffers = {name: each.clone() for name, each in model.named_buffers()}
    return functional_call(model, (weights, buffers), (images,))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("rounds", [1, 3])
def test_buffers_that_lie_there_for_a_functional_call_only_are_not_taken_for_the_model_s(guarded, first, rounds):
    model, optimizer, guard = guarded
    own = dict(model.named_buffers())

    def step(images, labels):
        teacher = with_buffers_of_its_own(model, images) if first else None
        out = model(images)
        teacher = with_buffers_of_its_own(model, images) if teacher is None else teacher
        optimizer.zero_grad()
        (functional.cross_entropy(out, labels) + functional.mse_loss(out, teacher.detach())).backward()
        optimizer.step()

    for seed in range(rounds):
        step(*batch(seed))
    state = kept(model)
    step(*batch(9, bad=NAN))
    assert guard.events.counts["refuse"] == 1
    assert same(kept(model), state)
    assert all(own[name] is each for name, each in model.named_buffers())


def test_a_step_through_functional_call_alone_is_undone(guarded):
    model, optimizer, guard = guarded
    state, own = kept(model), model.bn.running_mean
    images, labels = batch(1, bad=NAN)
    optimizer.zero_grad()
    out = functional_call(
        model, (dict(model.named_parameters()), {k: b.clone() for k, b in model.named_buffers()}), images
    )
    functional.cross_entropy(out, labels).backward()
    optimizer.step()
    assert guard.events.counts["refuse"] == 1
    assert same(kept(model), state)
    assert model.bn.running_mean is own


def test_what_is_transformed_during_a_sampled_step_is_not_sampled(guarded):
    model, optimizer, guard = guarded
    guard.detach()
    model.bn = nn.GroupNorm(2, 6)
    with Guard(model, optimizer, sample_every=1) as guard:
        train(model, optimizer, *batch(0))
        parameters = {name: each.detach() for name, each in model.named_parameters()}
        with torch.autocast("cpu", torch.bfloat16):
            out = model(batch(1)[0])
            vmap(lambda image: functional_call(model, parameters, (image[None],)))(batch(1)[0])
        optimizer.zero_grad()
        functional.cross_entropy(out.float(), batch(1)[1]).backward()
        optimizer.step()
        assert guard.steps == 2
