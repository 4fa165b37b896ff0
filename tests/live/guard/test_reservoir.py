"""The reservoir: inputs of healthy steps only, and damaged statistics measured again on them."""

import logging

import pytest
import torch
from torch import nn

import torchmend
from live.guard.training import Net, batch, net, train
from torchmend.live.guard import reservoir
from torchmend.live.guard.guard import Guard

NAN = float("nan")


def guarded(model=None, **options):
    model = model or net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return model, optimizer, Guard(model, optimizer, **options)


def images(guard, model):
    return [call.arguments[0] for call in guard._judge.reservoir.kept(model)]


def lose(model, guard):
    """Damage the statistics, and the copies of them that would be taken first."""
    model.bn.running_mean.fill_(NAN)
    model.bn.running_var.fill_(NAN)
    for kept in guard.transactions[0].buffers.kept:
        if kept.is_floating_point():
            kept.fill_(NAN)


def test_the_last_batches_are_kept_by_reference():
    model, optimizer, guard = guarded(reservoir=3)
    batches = [batch(seed) for seed in range(5)]
    for each in batches:
        train(model, optimizer, *each)
    assert [each.data_ptr() for each in images(guard, model)] == [each.data_ptr() for each, _ in batches[2:]]
    guard.detach()


def test_what_no_copy_has_is_measured_on_them_and_the_log_says_so(caplog):
    model, optimizer, guard = guarded()
    batches = [batch(seed) for seed in range(4)]
    for each in batches:
        train(model, optimizer, *each)
    lose(model, guard)
    with caplog.at_level(logging.WARNING, "torchmend.guard"):
        model.eval()(batch(9)[0])
    with torch.no_grad():
        seen = model.conv(torch.cat([each for each, _ in batches])).double()
    torch.testing.assert_close(model.bn.running_mean.double(), seen.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.bn.running_var.double(), seen.var((0, 2, 3)), rtol=1e-5, atol=1e-6)
    assert "recalibrated 1 layers on 4 recent batches" in caplog.messages
    assert not any("predicted" in each for each in caplog.messages)
    assert "[SANITIZE] Repaired corrupted running_mean: bn" in caplog.messages
    assert "Sanitized 2 BatchNorm statistics." in caplog.messages
    assert guard.repaired == 12
    guard.detach()


def test_a_healthy_copy_comes_first(caplog):
    model, optimizer, guard = guarded()
    for seed in range(4):
        train(model, optimizer, *batch(seed))
    model.bn.running_mean.fill_(NAN)
    guard.evaluation.check()
    assert any("taken from the last healthy copy" in each for each in caplog.messages)
    assert not any("recalibrated" in each for each in caplog.messages)
    guard.detach()


def test_what_is_loaded_damaged_is_measured_on_them(caplog):
    model, optimizer, guard = guarded()
    for seed in range(4):
        train(model, optimizer, *batch(seed))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["bn.running_mean"][2] = NAN
    model.load_state_dict(state)
    assert "recalibrated 1 layers on 4 recent batches" in caplog.messages
    guard.detach()


def test_the_first_evaluation_may_be_in_inference_mode():
    model, optimizer, guard = guarded()
    for seed in range(4):
        train(model, optimizer, *batch(seed))
    lose(model, guard)
    with torch.inference_mode():
        assert model.eval()(batch(9)[0]).isfinite().all()
    model.train()
    train(model, optimizer, *batch(5))
    assert guard.steps == 5
    guard.detach()


def test_a_refused_step_leaves_nothing_behind():
    model, optimizer, guard = guarded()
    train(model, optimizer, *batch(0))
    train(model, optimizer, *batch(1, bad=float("inf")))
    train(model, optimizer, *batch(2))
    assert [bool(each.isfinite().all()) for each in images(guard, model)] == [True, True]
    guard.detach()


def test_a_step_under_way_counts_only_when_it_has_ended():
    model, optimizer, guard = guarded()
    loss = model(batch(0)[0]).square().mean()
    assert images(guard, model) == []
    loss.backward()
    assert images(guard, model) == []
    optimizer.step()
    assert len(images(guard, model)) == 1
    guard.detach()


def test_a_step_with_a_micro_batch_dropped_leaves_nothing_behind():
    model, optimizer, guard = guarded(drop_micro_batches=True)
    for bad in (None, NAN):
        model(batch(0, bad=bad)[0]).square().mean().backward()
    optimizer.step()
    assert images(guard, model) == []
    guard.detach()


def test_all_micro_batches_of_a_healthy_step_are_kept():
    model, optimizer, guard = guarded()
    for seed in range(2):
        model(batch(seed)[0]).square().mean().backward()
    optimizer.step()
    assert len(images(guard, model)) == 2
    guard.detach()


def test_a_batch_that_was_written_over_is_not_used():
    model, optimizer, guard = guarded()
    static, labels = batch(0)
    for seed in range(3):
        static.copy_(batch(seed)[0])
        train(model, optimizer, static, labels)
    assert len(images(guard, model)) == 1
    guard.detach()


def test_no_graph_is_kept_alive():
    model, optimizer, guard = guarded()
    made = nn.Parameter(torch.ones(3, 1, 1)) * batch(0)[0]
    train(model, optimizer, made, batch(0)[1])
    assert images(guard, model)[0].grad_fn is None
    guard.detach()


def test_the_bytes_kept_alive_are_limited(monkeypatch):
    each = batch(0)[0].numel() * 4
    monkeypatch.setattr(reservoir, "MOST_BYTES", 2 * each)
    model, optimizer, guard = guarded()
    for seed in range(4):
        train(model, optimizer, *batch(seed))
    assert len(images(guard, model)) == 2
    monkeypatch.setattr(reservoir, "MOST_BYTES", each - 1)
    train(model, optimizer, *batch(5))
    assert len(images(guard, model)) <= 1
    guard.detach()


def root_hooks(model, **options):
    before = len(model._forward_pre_hooks)
    _, _, guard = guarded(model, sensors=["gradients", "buffers"], localise=False, **options)
    added = len(model._forward_pre_hooks) - before
    guard.detach()
    assert len(model._forward_pre_hooks) == before
    return added


def test_models_without_statistics_are_not_hooked():
    assert root_hooks(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))) == 0


@pytest.mark.parametrize("options", [{"reservoir": 0}, {"observe_only": True}])
def test_it_can_be_switched_off(options):
    assert root_hooks(net(), **options) == 0
    assert root_hooks(net()) == 1


def test_a_negative_number_is_refused():
    with pytest.raises(torchmend.UserError, match="reservoir is -1"):
        torchmend.GuardOptions(reservoir=-1)


class Choosy(Net):
    """Cannot be evaluated on what it is trained with."""

    def forward(self, images):
        if not self.training and len(images) == 8:
            raise RuntimeError("no labels")
        return super().forward(images)


def test_a_model_that_cannot_be_run_again_is_repaired_by_prediction(caplog):
    torch.manual_seed(0)
    model, optimizer, guard = guarded(Choosy())
    for seed in range(3):
        train(model, optimizer, *batch(seed))
    lose(model, guard)
    assert model.eval()(batch(9)[0][:5]).isfinite().all()
    assert "The statistics could not be measured again on recent batches: no labels" in caplog.messages
    assert not any(each.training for each in model.modules())
    guard.detach()


class Opaque:
    def __init__(self, images):
        self.images = images


class Unpacking(Net):
    def forward(self, given):
        return super().forward(given.images)


def test_objects_of_unknown_kind_are_not_kept():
    torch.manual_seed(0)
    model, optimizer, guard = guarded(Unpacking())
    train(model, optimizer, Opaque(batch(0)[0]), batch(0)[1])
    assert images(guard, model) == []
    guard.detach()


def test_autocast_is_as_it_was_in_training():
    model, optimizer, guard = guarded()
    for seed in range(3):
        given, labels = batch(seed)
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(given.bfloat16()), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    lose(model, guard)
    guard.evaluation.check()
    assert guard.repaired == 12
    assert torchmend.diagnose(model).healthy
    guard.detach()


def test_the_inputs_of_one_optimizers_step_wait_for_the_other():
    models = [net(0), net(1)]
    optimizers = [torch.optim.SGD(each.parameters(), 0.1) for each in models]
    with Guard(models, optimizers) as guard:
        sum(model(batch(0)[0]).square().mean() for model in models).backward()
        optimizers[0].step()
        assert images(guard, models[0]) == []
        optimizers[1].step()
        assert len(images(guard, models[0])) == len(images(guard, models[1])) == 1


def test_a_guarded_model_can_be_recalibrated_by_hand():
    model, optimizer, guard = guarded()
    for seed in range(3):
        train(model, optimizer, *batch(seed))
    lose(model, guard)
    given = [batch(seed)[0] for seed in range(10, 14)]
    torchmend.recalibrate(model, given)
    with torch.no_grad():
        seen = model.conv(torch.cat(given)).double()
    torch.testing.assert_close(model.bn.running_mean.double(), seen.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    guard.detach()
