"""In lazy mode the device itself leaves a bad step out, and the host hears of it later."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from live.guard.training import batch, kept, net, same, train
from torchmend.facts.errors import TrainingStoppedError, UserError
from torchmend.live.guard.clipping import By, Clip
from torchmend.live.guard.guard import Guard
from torchmend.live.guard.policy import Policy

NAN, INF = float("nan"), float("inf")

FUSED = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1, fused=True),
    "SGD-momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, 0.01, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
    "AdamW-amsgrad": lambda p: torch.optim.AdamW(p, 0.01, amsgrad=True, fused=True),
}


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED.keys())
def test_a_bad_step_leaves_every_byte_as_it_was(make, bad):
    model = net()
    optimizer = make(model.parameters())
    with Guard(model, optimizer, lazy=True):
        train(model, optimizer, *batch(0))
        state = kept(model, optimizer)
        train(model, optimizer, *batch(1, bad=bad))
        assert same(kept(model, optimizer), state)
        train(model, optimizer, *batch(2))
        assert not same(kept(model), state[:1])


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED.keys())
def test_a_bad_first_step_leaves_a_state_from_which_the_run_goes_on_as_if_it_had_not_been(make):
    models = [net(), net()]
    optimizers = [make(each.parameters()) for each in models]
    with Guard(models[0], optimizers[0], lazy=True):
        train(models[0], optimizers[0], *batch(9, bad=NAN))
        for seed in range(3):
            for model, optimizer in zip(models, optimizers, strict=True):
                train(model, optimizer, *batch(seed))
    assert same(*map(kept, models))
    assert same(*map(kept, optimizers))


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED.keys())
def test_a_healthy_run_is_the_same_to_the_last_bit(make):
    models = [net(), net()]
    optimizers = [make(each.parameters()) for each in models]
    with Guard(models[0], optimizers[0], lazy=True) as guard:
        for seed in range(4):
            for model, optimizer in zip(models, optimizers, strict=True):
                train(model, optimizer, *batch(seed))
    assert same(*map(kept, models))
    assert same(*map(kept, optimizers))
    assert not guard.events.decisions


def test_a_bad_micro_batch_keeps_the_whole_window_from_happening():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, fused=True)
    with Guard(model, optimizer, lazy=True):
        train(model, optimizer, *batch(0))
        state = kept(model, optimizer)
        optimizer.zero_grad()
        for each in (batch(1), batch(2, bad=NAN), batch(3)):
            functional.cross_entropy(model(each[0]), each[1]).backward()
        optimizer.step()
        assert same(kept(model, optimizer), state)


def test_a_buffer_alone_that_goes_bad_keeps_the_step_from_happening():
    class Overflowing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 1)
            self.register_buffer("largest", torch.zeros(1))

        def forward(self, rows: Tensor) -> Tensor:
            self.largest.copy_(rows.abs().max() * 1e30)
            return self.linear(rows)

    model = Overflowing()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)
    with Guard(model, optimizer, lazy=True):
        state = kept(model, optimizer)
        model(torch.full((2, 4), 1e9)).mean().mul(1e-9).backward()
        optimizer.step()
        assert same(kept(model), state[:1])


def test_the_host_hears_of_it_in_a_later_step():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, fused=True)
    with Guard(model, optimizer, lazy=True) as guard:
        train(model, optimizer, *batch(0))
        train(model, optimizer, *batch(1, bad=NAN))
        assert guard.events.counts["refuse"] == 0
        train(model, optimizer, *batch(2))
        assert [each.step for each in guard.events.decisions] == [1]
        assert guard.events.counts["refuse"] == 1


def test_what_is_under_way_is_told_when_the_guard_is_taken_away():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, fused=True)
    with Guard(model, optimizer, lazy=True) as guard:
        train(model, optimizer, *batch(0, bad=NAN))
    assert guard.events.counts["refuse"] == 1


def test_a_fault_in_every_step_still_stops_the_run():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, fused=True)
    with Guard(model, optimizer, lazy=True, policy=Policy(most_refusals=3)):
        for seed in range(3):
            train(model, optimizer, *batch(seed, bad=NAN))
        with pytest.raises(TrainingStoppedError):
            train(model, optimizer, *batch(3, bad=NAN))


def test_the_scaler_s_own_flag_still_counts():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    with Guard(model, optimizer, scaler=scaler, lazy=True):
        for bad in (None, INF, None):
            state = kept(model, optimizer)
            images, labels = batch(0, bad=bad)
            optimizer.zero_grad()
            scaler.scale(functional.cross_entropy(model(images), labels)).backward()
            scaler.step(optimizer)
            scaler.update()
            assert same(kept(model), state[:1]) == (bad is not None)
        assert scaler.get_scale() == 1.0
    assert not hasattr(optimizer, "found_inf")


def test_clipping_stays_on_the_device():
    models = [net(), net()]
    optimizers = [torch.optim.SGD(each.parameters(), 0.1, fused=True) for each in models]
    with Guard(models[0], optimizers[0], lazy=True, clip=Clip(limit=0.05)):
        for seed in range(3):
            optimizers[0].zero_grad()
            images, labels = batch(seed)
            functional.cross_entropy(models[0](images), labels).backward()
            optimizers[0].step()
    for seed in range(3):
        optimizers[1].zero_grad()
        images, labels = batch(seed)
        functional.cross_entropy(models[1](images), labels).backward()
        nn.utils.clip_grad_norm_(models[1].parameters(), 0.05)
        optimizers[1].step()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


class Waits(TorchDispatchMode):
    """Counts reads of what was worked out since `begin`; those of anything older wait for nothing."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.count = 0
        self.fresh = []
        for name in ("tolist", "numpy", "cpu"):
            monkeypatch.setattr(Tensor, name, self._counted(getattr(Tensor, name)))

    def begin(self):
        self.fresh.clear()

    def _counted(self, original):
        def method(tensor, *arguments, **keywords):
            self.count += any(tensor is each for each in self.fresh)
            return original(tensor, *arguments, **keywords)

        return method

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.is_nonzero):
            self.count += 1
        out = function(*arguments, **(keywords or {}))
        self.fresh += [each for each in (out if isinstance(out, list | tuple) else [out]) if isinstance(each, Tensor)]
        return out


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED.keys())
@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "eager"])
def test_nothing_that_a_step_worked_out_is_read_in_it(make, lazy, monkeypatch):
    model = net()
    optimizer = make(model.parameters())
    with Guard(model, optimizer, lazy=lazy, check_every=0) as guard, Waits(monkeypatch) as waits:
        for seed in range(4):
            waits.begin()
            if seed == 2:
                waits.count = 0
            images, labels = batch(seed)
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(images), labels)
            guard.observe(loss)
            loss.backward()
            optimizer.step()
        assert waits.count == (0 if lazy else 2)


@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.AdamW(p, 0.01), lambda p: torch.optim.RMSprop(p, 0.01)], ids=["unfused", "another"]
)
def test_an_optimizer_that_does_not_ask_the_device_is_refused(make):
    model = net()
    with pytest.raises(UserError, match="needs torch's Adam, AdamW or SGD with fused=True"):
        Guard(model, make(model.parameters()), lazy=True)


@pytest.mark.parametrize(
    "options",
    [
        {"drop_micro_batches": True},
        {"on_decision": lambda decision: decision},
        {"clip": Clip(by=By.PERCENTILE, limit=50.0)},
    ],
    ids=["micro-batches", "callback", "percentile"],
)
def test_what_has_to_know_the_verdict_at_once_is_refused(options):
    model = net()
    with pytest.raises(UserError, match="never waits for it"):
        Guard(model, torch.optim.AdamW(model.parameters(), fused=True), lazy=True, **options)


def test_observing_only_changes_nothing():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, fused=True)
    with Guard(model, optimizer, lazy=True, observe_only=True) as guard:
        train(model, optimizer, *batch(0, bad=NAN))
        assert not model.bn.running_mean.isfinite().all()
    assert guard.events.counts["refuse"] == 1
