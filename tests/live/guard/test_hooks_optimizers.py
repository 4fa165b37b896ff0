"""The variants of torch's optimizers, and how users write their own: a refused step changes no byte."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from live.guard.training import Kind, batch, kept, net, same, train
from torchmend.live.guard.guard import Guard

NAN = float("nan")
O = torch.optim  # noqa: E741

PLAIN = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "Adam": {"amsgrad": True, "weight_decay": 0.01},
    "AdamW": {},
    "NAdam": {"decoupled_weight_decay": True, "weight_decay": 0.01},
    "RAdam": {"weight_decay": 0.01},
    "RMSprop": {"momentum": 0.9, "centered": True, "weight_decay": 0.01},
    "Adagrad": {"lr_decay": 0.1, "weight_decay": 0.01},
    "Adadelta": {"weight_decay": 0.01},
    "Adamax": {"weight_decay": 0.01},
    "ASGD": {"weight_decay": 0.01},
    "Rprop": {},
    "Adafactor": {"weight_decay": 0.01},
}
FUSED = ("SGD", "Adam", "AdamW", "Adagrad")
NOT_CAPTURABLE = ("SGD", "Adagrad", "Adafactor")


def kind(name: str, **extra) -> Kind:
    def make(parameters):
        return getattr(O, name)(parameters, **PLAIN[name], **extra)

    return Kind("-".join([name, *(key if value is True else f"not-{key}" for key, value in extra.items())]), make)


VARIANTS = [
    *[kind(name, foreach=foreach) for name in PLAIN for foreach in (False, True)],
    *[kind(name, foreach=foreach, maximize=True) for name in PLAIN for foreach in (False, True)],
    *[kind(name, fused=True) for name in FUSED],
    *[kind(name, fused=True, maximize=True) for name in FUSED],
    Kind("Adam-lr-tensor", lambda p: O.Adam(p, torch.tensor(0.01), foreach=False)),
    Kind("AdamW-fused-lr-tensor", lambda p: O.AdamW(p, torch.tensor(0.01), fused=True)),
]  # fmt: skip
variants = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)


@variants
@pytest.mark.parametrize("before", [0, 2])
def test_a_refused_step_of_every_variant_leaves_every_byte_as_it_was(variant, before):
    model = net()
    optimizer = variant.make(list(model.parameters()))
    with Guard(model, optimizer) as guard:
        for seed in range(before):
            train(model, optimizer, *batch(seed))
        state = kept(model, optimizer)
        train(model, optimizer, *batch(9, bad=NAN))
        assert guard.events.counts["refuse"] == 1
        assert same(kept(model, optimizer), state)
        train(model, optimizer, *batch(2))
        assert not same(kept(model, optimizer), state)


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in NOT_CAPTURABLE])
def test_a_refused_step_of_a_capturable_optimizer_leaves_every_byte_as_it_was(name):
    """Torch takes a capturable step on accelerators only, so the state before it is that of a plain twin."""
    model = net()
    plain = kind(name).make(list(model.parameters()))
    train(model, plain, *batch(0))
    optimizer = kind(name, capturable=True).make(list(model.parameters()))
    state = plain.state_dict()
    state["param_groups"][0]["capturable"] = True
    optimizer.load_state_dict(state)
    with Guard(model, optimizer) as guard:
        state = kept(model, optimizer)
        train(model, optimizer, *batch(9, bad=NAN))
        assert guard.events.counts["refuse"] == 1
        assert same(kept(model, optimizer), state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch refuses a capturable step on the CPU")
@pytest.mark.parametrize("name", [name for name in PLAIN if name not in NOT_CAPTURABLE])
def test_capturable_steps_go_on_as_if_the_bad_batch_had_not_been(name):
    ends = []
    for seeds in ([0, None, 1], [0, 1]):
        model = net().cuda()
        optimizer = kind(name, capturable=True).make(list(model.parameters()))
        with Guard(model, optimizer):
            for seed in seeds:
                train(model, optimizer, *(each.cuda() for each in batch(seed or 0, bad=NAN if seed is None else None)))
        ends.append(kept(model, optimizer))
    assert same(*ends)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_refused_step_of_a_differentiable_optimizer_leaves_every_byte_as_it_was(name):
    """Differentiable optimizers move tensors that are no leaves, as inner loops of meta-learning do."""
    model = nn.Linear(3, 2)
    weights = {key: each.detach().clone().requires_grad_() for key, each in model.named_parameters()}
    inner = {key: each.clone() for key, each in weights.items()}
    for each in inner.values():
        each.retain_grad()
    optimizer = kind(name, differentiable=True, foreach=False).make(list(inner.values()))
    with Guard(model, optimizer) as guard:
        state, before = kept(optimizer), [each.detach().clone() for each in inner.values()]
        functional_call(model, inner, torch.full((4, 3), NAN)).sum().backward(retain_graph=True)
        optimizer.step()
        assert guard.events.counts["refuse"] == 1
        assert same(kept(optimizer), state)
        assert same([each.detach() for each in inner.values()], before)


def test_a_refused_step_on_sparse_gradients_leaves_every_byte_as_it_was():
    torch.manual_seed(0)
    model = nn.Embedding(5, 3, sparse=True)
    optimizer = O.SparseAdam(model.parameters(), 0.01)
    with Guard(model, optimizer) as guard:
        for scale in (1.0, NAN):
            state = kept(model, optimizer)
            optimizer.zero_grad()
            (model(torch.tensor([1, 1, 3])).sum() * scale).backward()
            optimizer.step()
        assert guard.events.counts["refuse"] == 1
        assert same(kept(model, optimizer), state)


def test_a_refused_step_of_muon_leaves_every_byte_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))
    optimizer = O.Muon(model.parameters(), 0.01)
    with Guard(model, optimizer) as guard:
        for value in (1.0, NAN):
            state = kept(model, optimizer)
            optimizer.zero_grad()
            model(torch.full((2, 3), value)).sum().backward()
            optimizer.step()
        assert guard.events.counts["refuse"] == 1
        assert same(kept(model, optimizer), state)


class Lookahead(O.SGD):
    """A user's optimizer on top of torch's: every second step it goes half-way back to slow weights."""

    def __init__(self, parameters) -> None:
        super().__init__(parameters, 0.1, momentum=0.9)

    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            group["counter"] = group.get("counter", 0) + 1
            for parameter in group["params"]:
                slow = self.state[parameter].setdefault("slow", parameter.detach().clone())
                if group["counter"] % 2 == 0:
                    slow.lerp_(parameter, 0.5)
                    parameter.copy_(slow)
        return loss


class Momentumless(O.Optimizer):
    """A user's optimizer with a None check, which keeps a history and steps by signs."""

    def __init__(self, parameters) -> None:
        super().__init__(parameters, {"lr": 0.01})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["steps"] = state.get("steps", 0) + 1
                state.setdefault("history", []).append(parameter.norm())
                if parameter.grad is not None:
                    parameter.add_(parameter.grad.sign(), alpha=-group["lr"])


@pytest.fixture(params=[False, True], ids=["", "base-in-use"])
def _base_in_use(request, monkeypatch):
    """Torch calls the hooks for a base class's step too once there has been an optimizer of that class."""
    if request.param:
        O.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    else:
        step = O.SGD.step
        monkeypatch.setattr(O.SGD, "step", step.__wrapped__ if getattr(step, "hooked", False) else step)


@pytest.mark.usefixtures("_base_in_use")
@pytest.mark.parametrize("make", [Lookahead, Momentumless])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_refused_step_of_a_user_s_optimizer_leaves_every_byte_as_it_was(make, before):
    model = net()
    optimizer = make(model.parameters())
    with Guard(model, optimizer) as guard:
        for seed in range(before):
            train(model, optimizer, *batch(seed))
        state = kept(model, optimizer)
        train(model, optimizer, *batch(9, bad=NAN))
        assert guard.events.counts["refuse"] == 1
        assert same(kept(model, optimizer), state)


@pytest.mark.usefixtures("_base_in_use")
def test_a_step_that_calls_its_base_class_s_is_one_step():
    model = net()
    optimizer = Lookahead(model.parameters())
    scheduler = O.lr_scheduler.StepLR(optimizer, 1, 0.5)
    with Guard(model, optimizer, scheduler=scheduler) as guard:
        for bad in (None, NAN, None):
            train(model, optimizer, *batch(0, bad=bad))
            scheduler.step()
        assert guard.steps == 3
        assert scheduler.last_epoch == 2


def test_a_step_that_ended_in_an_error_does_not_end_the_guarding():
    model = net()
    optimizer = O.SGD(model.parameters(), 0.1)

    def fail():
        raise RuntimeError("out of memory")

    with Guard(model, optimizer) as guard:
        for bad in (None, NAN):
            with pytest.raises(RuntimeError, match="out of memory"):
                optimizer.step(fail)
            state = kept(model)
            train(model, optimizer, *batch(0, bad=bad))
        assert same(kept(model), state)
        assert guard.steps == 2


def test_an_optimizer_that_is_declared_safe_is_not_copied(monkeypatch):
    class Safe(O.SGD):
        pass

    model = net()
    optimizer = Safe(model.parameters(), 0.1, momentum=0.9)
    monkeypatch.setattr("torchmend.live.guard.transaction.Standstill", lambda _: pytest.fail("copied"))
    with Guard(model, optimizer, safe_optimizers=True):
        train(model, optimizer, *batch(0))
        state = kept(model, optimizer)
        train(model, optimizer, *batch(9, bad=NAN))
        assert same(kept(model, optimizer), state)


@pytest.mark.parametrize("fused", [False, True])
def test_moments_in_another_type_than_their_parameters_keep_it_when_a_step_is_refused(fused):
    """`Optimizer.load_state_dict` would cast them: 1e-9 becomes 0 in float16."""
    model = nn.Linear(3, 2).half()
    optimizer = O.AdamW(model.parameters(), 1e-3, fused=fused, eps=1e-4)
    with Guard(model, optimizer) as guard:
        functional.mse_loss(model(torch.ones(2, 3).half()).float(), torch.zeros(2, 2)).backward()
        optimizer.step()
        for state in optimizer.state.values():
            state["exp_avg_sq"] = state["exp_avg_sq"].float().fill_(1e-9)
        before = copy.deepcopy([dict(each) for each in optimizer.state.values()])
        optimizer.zero_grad()
        (model(torch.ones(2, 3).half()).float() * NAN).sum().backward()
        optimizer.step()
        assert guard.events.counts["refuse"] == 1
        assert same([dict(each) for each in optimizer.state.values()], before)
