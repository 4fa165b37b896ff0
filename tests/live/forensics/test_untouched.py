"""Code that writes where it should not, or in ways of its own, changes nothing by being run again."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from live.forensics.faults import Fault, mean_loss, no_norm_net, seeded, with_row
from live.forensics.runs import incident_of, into
from live.guard.training import kept, same
from torchmend import Cause, Guard


class Momentum(nn.Module):
    """Moves a second encoder in its forward pass, in place or by its data."""

    def __init__(self, *, by_data):
        super().__init__()
        self.query, self.by_data = nn.Linear(6, 4, bias=False), by_data
        self.key = copy.deepcopy(self.query).requires_grad_(requires_grad=False)

    def forward(self, values):
        with torch.no_grad():
            if self.by_data:
                self.key.weight.data = 0.9 * self.key.weight.data + 0.1 * self.query.weight
            else:
                self.key.weight.lerp_(self.query.weight, 0.1)
        return self.query(values) / self.key(values).norm(dim=1, keepdim=True)


@pytest.mark.parametrize("by_data", [False, True])
def test_weights_that_a_forward_pass_moves_are_moved_once(by_data):
    fault = Fault(seeded(lambda: Momentum(by_data=by_data)), with_row(0.0), mean_loss, "", "")
    ends = [kept(into(fault, steps=(False, True, False), localise=each)[0]) for each in (False, True)]
    assert same(*ends)


def guarded(loss, batch, **options):
    """Take one step with a loss that is run again; return model, optimizer and guard."""
    model = no_norm_net()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with Guard(model, optimizer, loss=loss, **options) as guard:
        made = loss(model, batch)
        guard.observe(made, batch)
        made.backward()
        gradients = [each.grad for each in model.parameters()]
        optimizer.step()
    return model, gradients, guard


def divided(model, batch):
    return (model(batch).sum(1) / batch.norm(dim=1)).mean()


def test_a_batch_that_the_loss_writes_into_is_written_once_and_that_is_said():
    def loss(model, batch):
        return (model(batch.sub_(1.0)).sum(1) / batch.norm(dim=1)).mean()

    batch = with_row(1.0)(True)
    expected = batch - 1.0
    _, _, guard = guarded(loss, batch)
    assert torch.equal(batch, expected)
    assert "give observe() a copy" in incident_of(guard).found.note


def test_a_loss_that_goes_backward_itself_adds_to_no_gradient():
    def loss(model, batch):
        mean_loss(model, batch).backward()
        return divided(model, batch)

    ends = [guarded(loss, with_row(0.0)(True), observe_only=True, localise=each)[1] for each in (False, True)]
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(*ends, strict=True))


def test_a_loss_that_takes_its_batch_apart_is_run_as_often_as_it_takes():
    def loss(model, batch):
        return divided(model, batch.pop("values"))

    model, batch = no_norm_net(), {"values": with_row(0.0)(True)}
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with Guard(model, optimizer, loss=loss) as guard:
        made = guard.observe(loss(model, dict(batch)), batch)
        made.backward()
        optimizer.step()
    assert incident_of(guard).found.samples == (5,)
    assert "values" in batch


def test_what_a_loss_raises_when_a_change_is_tried_stops_no_run():
    runs = []

    def loss(model, batch):
        runs.append(batch)
        if len(runs) > 2 and len(runs[-1]) == 8:
            raise KeyError("twice is enough")
        return divided(model, batch)

    _, _, guard = guarded(loss, with_row(0.0)(True))
    assert incident_of(guard).found.operation == "div"


# Places


def test_a_distribution_is_looked_into():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(6, 4)

        def forward(self, values):
            mean = self.body(values) / values.norm(dim=1, keepdim=True)
            return torch.distributions.Normal(mean, torch.ones_like(mean), validate_args=False)

    fault = Fault(seeded(Encoder), with_row(0.0), lambda model, batch: model(batch).mean.square().mean(), "", "")
    place = incident_of(into(fault)[1]).found
    assert (place.cause, place.module, place.samples) == (Cause.MODULE, "Encoder", (5,))


def test_a_buffer_that_is_replaced_is_looked_at():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(6, 4)
            self.register_buffer("usual", torch.ones(()))

        def forward(self, values):
            self.usual = 0.9 * self.usual + 0.1 * (1 / values.norm(dim=1)).max()
            return self.body(values)

    place = incident_of(into(Fault(seeded(Scale), with_row(0.0), mean_loss, "", ""))[1]).found
    assert (place.operation, place.samples) == ("reciprocal", (5,))


def test_sparse_gradients_are_looked_at():
    def net():
        model = nn.Embedding(10, 4, sparse=True)
        model.weight.data[3] = 0.0
        return model

    def loss(model, batch):
        return model(batch).square().sum(-1).sqrt().mean()

    fault = Fault(seeded(net), lambda bad: torch.tensor([1, 2, 3 if bad else 4]), loss, "", "")
    place = incident_of(into(fault, loss=True)[1]).found
    assert (place.operation, place.backward, place.samples) == ("sqrt", True, (2,))


def test_a_loss_of_minus_infinity_shows_its_examples():
    def loss(model, batch):
        return (batch.norm(dim=1).log() + model(batch).sum(1)).mean()

    found = incident_of(guarded(loss, with_row(0.0)(True))[2])
    assert (found.found.operation, found.found.samples) == ("log", (5,))


def test_a_model_is_found_out_where_the_loss_draws_other_numbers_when_made_again():
    class Timed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(6, 4)

        def forward(self, values, time):
            return self.body(values) / time

    model = seeded(Timed)()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    drawn = iter([torch.arange(8.0)[:, None]])

    def loss(model, batch):
        return model(batch, next(drawn, torch.ones(8, 1))).square().mean()

    with Guard(model, optimizer, loss=loss) as guard:
        guard.observe(loss(model, with_row(1.0)(False)), with_row(1.0)(False)).backward()
        optimizer.step()
    place = incident_of(guard).found
    assert (place.module, place.operation, place.samples) == ("Timed", "div", (0,))
    assert "found by the model's call alone" in place.note


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 6, bias=False)

    def forward(self, values):
        made = self.body(values)
        return made / made.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("between", [False, True])
def test_of_a_generator_and_a_critic_the_first_that_failed_is_named_once(between):
    torch.manual_seed(0)
    generator = nn.Linear(6, 6, bias=False) if between else Normed()
    critic = nn.Sequential(nn.Linear(6, 1))
    optimizers = [torch.optim.SGD(each.parameters(), 1e-3) for each in (generator, critic)]
    with Guard([generator, critic], optimizers) as guard:
        made = generator(with_row(0.0)(True))
        critic(made / made.norm(dim=1, keepdim=True) if between else made).mean().backward()
        for each in optimizers:
            each.step()
    place = incident_of(guard).found
    assert place.samples == (5,)
    assert place.cause is (Cause.LOSS if between else Cause.MODULE)
    assert place.operation == ("" if between else "div")


def test_a_model_that_calls_itself_without_gradients_is_seen_as_one_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(6, 6)

        def forward(self, values, before=None):
            if before is None:
                with torch.no_grad():
                    before = self(values, values)
            return self.body(values + before)

    fault = Fault(seeded(Twice), with_row(0.0), divided, "", "")
    assert incident_of(into(fault)[1]).found.cause is Cause.LOSS


# What cannot be known is said


def test_a_penalty_on_weights_is_thought_of_where_the_loss_is_not_run():
    def loss(model, batch):
        return mean_loss(model, batch) + (0.0 * model[0].bias).square().sum().sqrt()

    place = incident_of(into(Fault(no_norm_net, with_row(1.0), loss, "", ""), steps=(True,))[1]).found
    assert "a penalty on weights" in place.note


def test_a_second_backward_pass_of_a_forward_pass_is_told_as_such():
    model, batch = no_norm_net(), with_row(0.0)(True)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with Guard(model, optimizer) as guard:
        output = model(batch)
        output.mean().backward(retain_graph=True)
        guard.observe((output.sum(1) / batch.norm(dim=1)).mean()).backward()
        optimizer.step()
    assert "had a backward pass before this one" in incident_of(guard).found.note


def test_parts_that_cannot_be_run_are_not_said_to_show_nothing():
    def loss(model, batch):
        return divided(model, batch.view(8, 6))

    assert "no part of the batch could be run alone" in incident_of(guarded(loss, with_row(0.0)(True))[2]).found.note


def test_a_guard_that_only_observes_does_not_say_that_it_undid_the_step():
    _, _, guard = guarded(divided, with_row(0.0)(True), observe_only=True)
    assert "only observes" in incident_of(guard).undone


def test_a_detached_guard_keeps_no_batch():
    model, batch = no_norm_net(), with_row(1.0)(False)
    guard = Guard(model, torch.optim.SGD(model.parameters(), 1e-3))
    guard.detach()
    guard.observe(mean_loss(model, batch), batch)
    seen = weakref.ref(batch)
    del batch
    gc.collect()
    assert seen() is None
