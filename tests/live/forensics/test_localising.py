"""A failing batch is run again, and the place is named: module, pass, operation, examples."""

import math
import random
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from live.forensics.faults import FAULTS, Fault, Root, mean_loss, no_norm_net, numbers, root_net, seeded, with_row
from live.forensics.runs import incident_of, into
from live.guard.training import kept, same
from torchmend import Cause, Code, Guard, Policy, TrainingStoppedError
from torchmend.live.forensics import calls
from torchmend.live.forensics import localising as localising_of
from torchmend.live.guard import investigating as localising


@pytest.mark.parametrize("name", FAULTS)
def test_with_the_loss_the_place_is_named_to_the_operation(name):
    fault = FAULTS[name]
    steps = (True,) * 6 if name == "random_mask" else (False, False, True)
    found = incident_of(into(fault, loss=True, steps=steps)[1])
    place = found.found
    assert (place.cause, place.backward) == (fault.cause, fault.backward)
    if fault.module:
        assert place.module == fault.module
    assert place.operation == fault.operation
    if fault.samples:
        assert place.samples == fault.samples
    if fault.code:
        assert found.code == fault.code


@pytest.mark.parametrize("name", FAULTS)
def test_without_the_loss_the_module_or_the_side_of_the_loss_is_named(name):
    fault = FAULTS[name]
    steps = (True,) * 6 if name == "random_mask" else (False, False, True)
    place = incident_of(into(fault, steps=steps)[1]).found
    assert (place.cause, place.backward) == (fault.cause, fault.backward)
    if fault.module:
        assert place.module == fault.module


def test_a_shared_module_is_told_by_all_its_names_and_by_which_of_its_calls_failed():
    place = incident_of(into(FAULTS["shared_module"])[1]).found
    assert place.sentence == (
        "module first (Inverse, also again, call 2 of the step) produced Inf in the forward pass from finite inputs"
    )


def test_a_part_that_is_never_called_is_told_by_its_parameter():
    place = incident_of(into(FAULTS["projection_never_called"])[1]).found
    assert place.parameter == "inner.out_proj.bias"


def stretched_loss(model, batch):
    """Divide by the whole range of each example before the model sees it: 0/0 where all its values are equal."""
    low = batch.amin(1, keepdim=True)
    return mean_loss(model, (batch - low) / (batch.amax(1, keepdim=True) - low))


def test_code_that_runs_before_the_model_is_not_said_to_run_after_it():
    fault = Fault(no_norm_net, with_row(0.25), stretched_loss, "loss", "")
    place = incident_of(into(fault, loss=True)[1]).found
    assert (place.cause, place.module, place.operation) == (Cause.LOSS, "", "div")
    assert place.sentence == "the loss code produced NaN in the forward pass"


# What cannot be found is said


class Once(nn.Module):
    """Fails in one call, whatever it is called with."""

    def __init__(self, at):
        super().__init__()
        self.body, self.calls, self.at = nn.Linear(6, 2), 0, at

    def forward(self, values):
        self.calls += 1
        return self.body(values) * (math.nan if self.calls == self.at else 1.0)


def test_what_does_not_happen_again_is_said_to_be_so():
    fault = Fault(lambda: Once(3), with_row(1.0), mean_loss, "not again", "")
    found = incident_of(into(fault)[1])
    assert found.found.cause is Cause.NOT_AGAIN
    assert found.code is Code.NOT_REPRODUCED
    assert "it did not happen again" in str(found)


def test_a_batch_that_was_overwritten_is_not_run_again():
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.by = nn.Parameter(torch.zeros(6))

        def forward(self, values):
            return values + self.by

    def spoiling(model, batch):
        loss = mean_loss(model, batch)
        batch.fill_(1.0)
        return loss

    found = incident_of(into(Fault(lambda: nn.Sequential(Shift(), Root()), with_row(0.0), spoiling, "", ""))[1])
    assert found.found.cause is Cause.UNKNOWN
    assert "the batch was overwritten" in str(found)


def test_what_the_model_raises_when_it_is_run_again_is_told():
    class Fussy(Once):
        def forward(self, values):
            if self.calls == 3:
                raise RuntimeError("once is enough")
            return super().forward(values)

    found = incident_of(into(Fault(lambda: Fussy(3), with_row(1.0), mean_loss, "", ""))[1])
    assert found.found.note == "running it again raised RuntimeError: once is enough"


def test_gradients_of_outputs_that_are_too_large_to_keep_leave_the_side_open(monkeypatch):
    monkeypatch.setattr(calls, "MOST_OUTPUT_BYTES", 8)
    place = incident_of(into(FAULTS["distance_of_zero_in_the_loss"])[1]).found
    assert place.cause is Cause.UNKNOWN
    assert "cannot be told without Guard(loss=)" in place.note


def test_a_failure_of_the_whole_batch_says_so():
    total = with_row(1.0)(True).sum()

    class Spread(nn.Module):
        def forward(self, values):
            return values / (values.sum() - total)

    fault = Fault(lambda: nn.Sequential(nn.Linear(6, 6), Spread()), with_row(1.0), mean_loss, "module", "1")

    def spoil(model):
        torch.nn.init.eye_(model[0].weight)
        torch.nn.init.zeros_(model[0].bias)

    place = incident_of(into(replace(fault, spoil=spoil))[1]).found
    assert place.which == "the whole batch of 8; no smaller part shows it"


def test_an_infinite_mask_is_no_fault():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(6, 6)
            self.register_buffer("mask", torch.full((6, 6), -math.inf).triu(1))

        def forward(self, values):
            scores = self.body(values)[:, None] + self.mask
            return torch.where(scores.softmax(-1) > 0, scores, 0.0) / values.sum(1)[:, None, None]

    place = incident_of(into(Fault(seeded(Masked), with_row(0.0), mean_loss, "", ""))[1]).found
    assert (place.module, place.operation, place.samples) == ("Masked", "div", (5,))


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = root_net(), nn.Linear(4, 2)


def parts_loss(model, batch):
    return model.decoder(model.encoder(batch)).square().mean()


def test_children_are_seen_where_the_model_itself_is_never_called():
    place = incident_of(into(Fault(seeded(Parts), with_row(0.0), parts_loss, "", ""))[1]).found
    assert (place.cause, place.module, place.samples) == (Cause.MODULE, "encoder.1", (5,))


def test_what_the_very_first_step_cannot_show_is_looked_into_in_the_next():
    guard = into(Fault(seeded(Parts), with_row(0.0), parts_loss, "", ""), steps=(True, True, True))[1]
    places = [each.incident.found for each in guard.events.decisions if each.incident is not None]
    assert [(each.cause, each.module) for each in places] == [(Cause.UNKNOWN, ""), (Cause.MODULE, "encoder.1")]


def test_checkpointed_segments_are_looked_into():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = root_net()

        def forward(self, values):
            return checkpoint(self.inner, values, use_reentrant=False)

    place = incident_of(into(Fault(seeded(Checkpointed), with_row(0.0), mean_loss, "", ""))[1]).found
    assert (place.module, place.operation, place.backward) == ("inner.1", "sqrt", True)


# Nothing else changes


@pytest.mark.parametrize("name", ["outlier", "random_mask", "root_of_zero_backward", "exponential"])
def test_a_run_ends_the_same_to_the_bit_with_and_without(name):
    ends = []
    for localise in (False, True):
        model, guard = into(FAULTS[name], steps=(False, True, True, False, False), localise=localise)
        ends.append((kept(model), guard.events.counts["refuse"], random.getstate(), torch.get_rng_state().tolist()))
    assert same(ends[0][0], ends[1][0])
    assert ends[0][1:] == ends[1][1:]


def test_a_healthy_run_is_never_run_again(monkeypatch):
    monkeypatch.setattr(localising, "localise", None)
    _, guard = into(FAULTS["outlier"], steps=(False,) * 5)
    assert not guard.events.decisions


def test_the_same_origin_is_looked_into_once_in_fifty_steps():
    _, guard = into(FAULTS["nan_in_the_batch"], steps=(True, False) * 7, policy=Policy(most_refusals=32))
    assert sum(each.incident is not None for each in guard.events.decisions) == 1


def test_it_can_be_switched_off():
    _, guard = into(FAULTS["nan_in_the_batch"], localise=False)
    assert [each.incident for each in guard.events.decisions if each.action == "refuse"] == [None]


def test_single_refusals_by_a_grad_scaler_are_its_own_business():
    model = no_norm_net()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    with Guard(model, optimizer, scaler=scaler) as guard:
        for _ in range(2):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = mean_loss(model, numbers())
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    first, second = (each.incident for each in guard.events.decisions)
    assert first is None
    assert second.code is Code.SCALE_TOO_HIGH


def test_a_run_that_is_stopped_says_where_it_begins():
    fault = FAULTS["weight_poisoned"]
    with pytest.raises(TrainingStoppedError, match=r"Where it begins: parameter 3\.weight held NaN before the step\."):
        into(fault, steps=(True,) * 3, policy=Policy(most_refusals=2, window=4), ring=None)


def test_an_explicit_step_takes_the_batch_as_well():
    fault = FAULTS["zero_vector_in_the_loss"]
    model, batch = fault.model(), fault.batch(True)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with Guard(model, optimizer, loss=fault.loss) as guard, guard.step() as step:
        step.backward(fault.loss(model, batch), batch)
        optimizer.step()
    assert incident_of(guard).found.operation == "div"


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own, at a broken graph
def test_a_compiled_model_is_run_again_as_it_was_written():
    torch.compiler.reset()
    fault = FAULTS["root_of_zero_backward"]
    compiled = replace(fault, model=lambda: torch.compile(root_net(), backend="eager"))
    place = incident_of(into(compiled)[1]).found
    assert (place.module, place.operation, place.backward) == ("1", "sqrt", True)


def test_of_several_models_the_right_one_is_named():
    torch.manual_seed(0)
    first, second = no_norm_net(), nn.Sequential(nn.Linear(4, 4, bias=False), Root(), nn.Linear(4, 1))
    optimizers = [torch.optim.SGD(each.parameters(), 1e-3) for each in (first, second)]
    with Guard([first, second], optimizers) as guard:
        hidden = first(numbers()) * torch.ones(8, 1).index_fill(0, torch.tensor([5]), 0.0)
        second(hidden).square().mean().backward()
        for each in optimizers:
            each.step()
    found = [each.incident.found for each in guard.events.decisions if each.incident is not None]
    assert found[0].module == "1 (model 2)"
    assert found[0].samples == (5,)


# Which examples


def counted(guilty):
    runs = []

    def shows(part):
        runs.append(part)
        return guilty(set(part))

    return shows, runs


@pytest.mark.parametrize(
    ("guilty", "found"),
    [
        (lambda part: 37 in part, ((37,), False)),
        (lambda part: {3, 5} <= part, ((3, 5), False)),
        (lambda part: {3, 37} <= part, ((3, 37), False)),
        (lambda part: {3, 20, 37} <= part, ((3, 20, 37), False)),
        (lambda part: len(part) > 60, (tuple(range(64)), False)),
        (lambda part: 3 in part or 37 in part, ((3, 37), False)),
        (lambda part: len(part) == 64, (tuple(range(64)), False)),
        (lambda part: len(part) >= 2 and 37 in part, ((37,), False)),
        (lambda part: True, ((0, 1, 2), True)),
    ],
)
def test_the_guilty_examples_are_found_in_few_runs(guilty, found):
    shows, runs = counted(guilty)
    assert localising_of.guilty_part(shows, 64) == found
    assert len(runs) <= 64


def test_the_search_stops_when_it_is_told_to():
    shows, runs = counted(lambda part: 37 in part)
    part, _ = localising_of.guilty_part(shows, 1 << 12, lambda: len(runs) >= 4)
    assert 37 in part
    assert len(runs) <= 6


def test_an_investigation_that_takes_too_long_says_so(monkeypatch):
    monkeypatch.setattr(localising, "MOST_SECONDS", -1.0)
    found = incident_of(into(FAULTS["root_of_zero_backward"])[1])
    assert found.found.module == "1"
    assert "the search for the examples was stopped: it took too long" in str(found)
