"""What was changed can be undone to the bit, and shows in nothing that is saved."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import torchmend
from overflowing import FAULTS, batch_norm, outputs, rms

every_fault = pytest.mark.parametrize("make", [make for make, _ in FAULTS.values()], ids=FAULTS)


@every_fault
def test_undo_gives_the_old_outputs_to_the_bit(make):
    model, batch = make()
    before = outputs(copy.deepcopy(model), batch)
    handle = torchmend.stabilise(model, batch=batch)
    handle.undo()
    assert outputs(model, batch).equal(before) or before.isnan().any()
    assert torch.equal(outputs(model, batch).nan_to_num(7), before.nan_to_num(7))


def test_undo_puts_back_classes_and_settings():
    model, batch = batch_norm()
    with torchmend.stabilise(model, batch=batch) as handle:
        assert handle.modules == ("0",)
        assert (model[1].momentum, model[1].eps) == (0.01, 1e-3)
    assert type(model[0]) is nn.Linear
    assert (model[1].momentum, model[1].eps) == (0.1, 1e-5)


def test_undo_twice_does_nothing_more():
    model, batch = rms()
    handle = torchmend.stabilise(model, batch=batch)
    handle.undo()
    other = torchmend.stabilise(model, batch=batch)
    handle.undo()
    assert outputs(model, batch).isfinite().all()
    assert other.modules == ("1",)
    assert torchmend.stabilise(model, batch=batch).changes == ()


def test_undo_leaves_alone_what_was_set_since():
    model, _ = batch_norm()
    handle = torchmend.stabilise(model, modules=())
    model[1].eps = 0.5
    handle.undo()
    assert model[1].eps == 0.5


def test_undo_works_below_a_guard_that_came_later():
    model, batch = rms()
    before = outputs(model, batch)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    handle = torchmend.stabilise(model, optimizer, batch=batch)
    guard = torchmend.Guard(model, optimizer)
    handle.undo()
    assert torch.equal(outputs(model, batch), before)
    guard.detach()


def test_undo_works_below_a_class_that_somebody_else_has_given_since():
    model, batch = rms()
    before = outputs(model, batch)
    handle = torchmend.stabilise(model, batch=batch)
    model[1].__class__ = type("Theirs", (type(model[1]),), {})
    handle.undo()
    assert torch.equal(outputs(model, batch), before)


def test_a_guarded_step_goes_through_stabilised_modules():
    model, batch = rms()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    torchmend.stabilise(model, optimizer, batch=batch)
    guard = torchmend.Guard(model, optimizer)
    before = model[1].weight.detach().clone()
    outputs(model, batch).square().mean().backward()
    optimizer.step()
    assert not torch.equal(model[1].weight, before)
    guard.detach()


@every_fault
def test_stabilising_twice_changes_nothing_more(make):
    model, batch = make()
    torchmend.stabilise(model, batch=batch)
    assert torchmend.stabilise(model, batch=batch).changes == ()


def test_a_module_inside_one_that_is_in_float32_is_nothing_to_change():
    model, _ = FAULTS["attention"][0]()
    torchmend.stabilise(model, modules="0")
    assert torchmend.stabilise(model, modules="0.query").changes == ()


@every_fault
def test_names_of_state_and_modules_stay(make):
    model, batch = make()
    keys, names = list(model.state_dict()), [name for name, _ in model.named_modules()]
    torchmend.stabilise(model, batch=batch)
    assert list(model.state_dict()) == keys
    assert [name for name, _ in model.named_modules()] == names


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "save": saved_and_loaded,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_computes_as_before_and_can_be_stabilised_by_the_same_names(copied):
    model, batch = batch_norm()
    handle = torchmend.stabilise(model, batch=batch)
    copy_of_it = copied(model)
    assert type(copy_of_it[0]) is nn.Linear
    assert not outputs(copy_of_it.train(), batch).isfinite().all()
    assert copy_of_it[1].eps == 1e-3
    fresh = copied(model)
    torchmend.stabilise(fresh, modules=handle.modules)
    assert outputs(fresh, batch).isfinite().all()


def test_an_error_on_the_way_leaves_everything_as_it_was():
    model, batch = batch_norm()
    before = copy.deepcopy(model.state_dict())

    def forward(model, batch):
        model(batch)
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        torchmend.stabilise(model, batch=batch, forward=forward)
    assert model[1].eps == 1e-5
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())


def test_a_forward_pass_that_fails_leaves_autocast_on():
    model, batch = rms()
    torchmend.stabilise(model, modules="0")
    with torch.autocast("cpu", torch.float16):
        with pytest.raises(RuntimeError, match="shapes"):
            model(batch[:, :5])
        assert torch.is_autocast_enabled("cpu")
