"""Statistics are sound before an evaluation reads them, and after a load."""

import copy
import logging

import pytest
import torch

from live.guard.training import batch, kept, net, same, train
from torchmend.live.guard.guard import Guard

NAN = float("nan")


@pytest.fixture
def guarded():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer) as guard:
        for seed in range(5):
            train(model, optimizer, *batch(seed))
        yield model, guard


def poison(model, *, whole=False):
    model.bn.running_mean[: None if whole else 2] = NAN
    model.bn.running_var[1] = -1.0


@pytest.mark.parametrize("call", ["forward", "encode", "submodule"])
def test_the_first_evaluation_finds_sound_statistics(guarded, call):
    model, guard = guarded
    poison(model)
    model.eval()
    images = batch(0)[0]
    out = {"forward": model, "encode": model.encode, "submodule": lambda x: model.bn(model.conv(x))}[call](images)
    assert out.isfinite().all()
    assert guard.repaired > 0
    assert (model.bn.running_var >= 0).all()


def test_values_come_from_the_copy_of_the_last_step(guarded):
    model, guard = guarded
    before = [tensor.clone() for tensor in guard.transactions[0].buffers.kept]
    poison(model, whole=True)
    model.eval()
    model(batch(0)[0])
    assert any(torch.equal(model.bn.running_mean, each) for each in before)


def test_the_context_checks_what_no_hook_sees(guarded):
    model, guard = guarded
    poison(model)
    with guard.evaluating():
        assert model.bn.running_mean.isfinite().all()


def test_sound_statistics_are_left_alone(guarded):
    model, _ = guarded
    state = kept(model)
    model.eval()
    model(batch(0)[0])
    assert same(kept(model), state)


def test_a_second_evaluation_without_training_is_not_checked_again(guarded, monkeypatch):
    model, guard = guarded
    model.eval()
    model(batch(0)[0])
    monkeypatch.setattr(guard.evaluation, "check", lambda: pytest.fail("checked again"))
    model(batch(1)[0])


def test_a_poisoned_state_that_is_loaded_is_repaired_and_told(guarded, caplog):
    model, _ = guarded
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["bn.running_mean"][2] = NAN
    with caplog.at_level(logging.INFO, "torchmend.guard"):
        model.load_state_dict(state)
    assert model.bn.running_mean.isfinite().all()
    assert "Performing post-load model health check..." in caplog.messages
    assert "[WARN] Found 1 corrupted stats after loading!" in caplog.messages


def test_a_healthy_state_that_is_loaded_is_said_to_be(guarded, caplog):
    model, _ = guarded
    with caplog.at_level(logging.INFO, "torchmend.guard"):
        model.load_state_dict(model.state_dict())
    assert "Model health: OK" in caplog.messages


def test_observing_only_repairs_nothing():
    model = net()
    with Guard(model, torch.optim.SGD(model.parameters(), 0.1), observe_only=True):
        poison(model)
        model.eval()
        model(batch(0)[0])
    assert model.bn.running_mean.isnan().any()


def test_observing_only_repairs_nothing_that_is_loaded(caplog):
    model = net()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["bn.running_mean"][2] = NAN
    with Guard(model, torch.optim.SGD(model.parameters(), 0.1), observe_only=True):
        model.load_state_dict(state)
    assert model.bn.running_mean.isnan().any()
    assert "[WARN] Found 1 corrupted stats after loading!" in caplog.messages


@pytest.mark.parametrize("load", [False, True])
def test_statistics_are_watched_though_something_else_in_the_model_is_damaged(load):
    model = net()
    model.register_buffer("best", torch.tensor(float("inf")))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    images, labels = batch(1)
    images[0, 0, 0, 0] = 3e20  # breaks the statistics alone
    with Guard(model, optimizer) as guard:
        train(model, optimizer, *batch(0))
        if load:
            model.load_state_dict(model.state_dict())
        else:
            poison(model)
            guard.evaluation.check()
        state = kept(model)
        train(model, optimizer, images, labels)
        assert same(kept(model), state)


def test_a_sound_model_does_not_speak_for_the_other():
    models = [net(0), net(1)]
    optimizers = [torch.optim.SGD(each.parameters(), 0.1) for each in models]
    with Guard(models, optimizers, observe_only=True) as guard:
        poison(models[0])
        guard.evaluation.check()
        models[1].load_state_dict(models[1].state_dict())
        assert not guard.evaluation.were_sound


def test_what_was_repaired_after_a_load_and_before_an_evaluation_is_counted():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer) as guard:
        train(model, optimizer, *batch(0))
        broken = copy.deepcopy(model.state_dict())
        broken["bn.running_mean"][0] = float("nan")
        model.load_state_dict(broken)
        assert guard.repaired == 1
        model.bn.running_var[:2] = float("nan")
        with guard.evaluating():
            assert guard.repaired == 3


def test_a_guard_that_is_switched_off_or_detached_repairs_nothing(monkeypatch):
    monkeypatch.setenv("TORCHMEND_GUARD", "off")
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    off = Guard(model, optimizer)
    monkeypatch.delenv("TORCHMEND_GUARD")
    detached = Guard(model, optimizer)
    detached.detach()
    model.bn.running_mean[0] = NAN
    for guard in (off, detached):
        with guard.evaluating():
            assert model.bn.running_mean.isnan().any()
