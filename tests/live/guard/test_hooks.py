"""What was seen when hooks were tried: every way in which a loop may differ from the plain one."""

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import torchmend
from live.guard.training import batch, kept, net, same, train
from torchmend.facts.errors import UserError
from torchmend.live.guard.guard import Guard

NAN = float("nan")


@pytest.fixture
def guarded():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    with Guard(model, optimizer) as guard:
        yield model, optimizer, guard


def refuses(model, optimizer, forward) -> bool:
    """Return whether a bad batch that goes through `forward` leaves no trace."""
    state = kept(model, optimizer)
    images, labels = batch(0, bad=NAN)
    optimizer.zero_grad()
    functional.cross_entropy(forward(images), labels).backward()
    optimizer.step()
    return same(kept(model, optimizer), state)


def test_calls_that_pass_the_root_by_are_seen(guarded):
    model, optimizer, _ = guarded
    assert refuses(model, optimizer, lambda images: model.head(model.encode(images)))
    assert refuses(model, optimizer, model.forward)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_runs_the_forward_twice_and_is_undone(guarded, reentrant):
    model, optimizer, _ = guarded

    def forward(images):
        images.requires_grad_(reentrant)
        return model.head(checkpoint(model.encode, images, use_reentrant=reentrant))

    assert refuses(model, optimizer, forward)


def test_a_copy_of_the_model_is_not_guarded(guarded):
    model, _, guard = guarded
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    train(twin, optimizer, *batch(0, bad=NAN))
    assert twin.bn.running_mean.isnan().any()
    assert not guard.events.decisions


def test_a_pickled_model_loads_where_torchmend_is_not(guarded, tmp_path):
    model, _, _ = guarded
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with Guard(plain, torch.optim.SGD(plain.parameters(), 0.1)):
        (tmp_path / "model.pkl").write_bytes(pickle.dumps(plain))
    code = (
        "import pickle, sys, torch; sys.modules['torchmend'] = None;"
        "m = pickle.load(open(sys.argv[1], 'rb')); m(torch.zeros(2, 3, 4, 4)); m.load_state_dict(m.state_dict())"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.pkl")], check=True, cwd=Path("/"))
    torch.save(model, io.BytesIO())


def test_states_that_are_saved_hold_nothing_of_the_guard():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    before = scheduler.state_dict().keys()
    with Guard(model, optimizer, scheduler=scheduler):
        assert scheduler.state_dict().keys() == before
        stream = io.BytesIO()
        torch.save([model.state_dict(), optimizer.state_dict(), scheduler.state_dict()], stream)
        stream.seek(0)
        torch.load(stream, weights_only=True)


def test_detaching_takes_every_hook_away():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    Guard(model, optimizer).detach()
    hooks = [module._forward_pre_hooks for module in model.modules()]
    hooks += [module._load_state_dict_post_hooks for module in model.modules()]
    assert not any(hooks)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    train(model, optimizer, *batch(0, bad=NAN))
    assert model.conv.weight.isnan().any()


def test_spectral_norm_s_vectors_are_undone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4)), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer):
        state = kept(model)
        loss = model(torch.full((3, 6), NAN)).sum()
        loss.backward()
        optimizer.step()
        assert same(kept(model), state)


class WithExtraState(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, x):
        self.seen += 1
        return x

    def get_extra_state(self):
        return {"seen": self.seen}

    def set_extra_state(self, state):
        self.seen = state["seen"]


class WithLiveExtraState(nn.Module):
    """Hands out what it goes on writing to, as is natural for a dictionary."""

    def __init__(self):
        super().__init__()
        self.state = {"seen": []}

    @property
    def seen(self):
        return len(self.state["seen"])

    def forward(self, x):
        self.state["seen"].append(len(x))
        return x

    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        self.state = state


@pytest.mark.parametrize("kind", [WithExtraState, WithLiveExtraState])
def test_extra_state_is_undone(kind):
    model = nn.Sequential(nn.Linear(3, 2), kind())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer):
        for rows in (torch.ones(2, 3), torch.full((2, 3), NAN), torch.full((2, 3), NAN)):
            optimizer.zero_grad()
            model(rows).sum().backward()
            optimizer.step()
    assert model[1].seen == 1


def test_unused_parameters_do_not_keep_the_verdict_away():
    model = net()
    model.unused = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer):
        assert refuses(model, optimizer, model)


def test_a_backward_pass_that_fails_does_not_end_the_guarding(guarded):
    model, optimizer, _ = guarded
    state = kept(model, optimizer)

    def fail(_):
        raise RuntimeError("out of memory")

    hidden = model.conv(batch(0)[0])
    hidden.register_hook(fail)
    loss = functional.cross_entropy(model.head(functional.relu(model.bn(hidden)).mean((2, 3))), batch(0)[1])
    with pytest.raises(RuntimeError, match="out of memory"):
        loss.backward()
    train(model, optimizer, *batch(0, bad=NAN))
    assert same(kept(model, optimizer), state)  # what the failed step wrote is undone with it


def test_two_losses_with_a_retained_graph_are_one_step(guarded):
    model, optimizer, _ = guarded
    state = kept(model, optimizer)
    images, labels = batch(0)
    hidden = model.encode(images)
    hidden.sum().backward(retain_graph=True)
    (functional.cross_entropy(model.head(hidden), labels) * NAN).backward()
    optimizer.step()
    assert same(kept(model, optimizer), state)


def test_minus_infinity_in_a_mask_is_no_damage():
    model = nn.Sequential(nn.Linear(3, 2))
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer) as guard:
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
    assert not guard.events.decisions


def test_a_sparse_gradient_is_looked_at():
    model = nn.Embedding(5, 3, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer):
        state = kept(model)
        (model(torch.tensor([1, 1, 3])).sum() * NAN).backward()
        optimizer.step()
        assert same(kept(model), state)


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("called_before", [False, True])
def test_a_wrapper_that_is_compiled_is_guarded(fullgraph, called_before):
    model = net()
    compiled = torch.compile(model, backend="eager", fullgraph=fullgraph)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    if called_before:
        train(compiled, optimizer, *batch(0))
    with Guard(compiled, optimizer) as guard:
        train(compiled, optimizer, *batch(0))
        assert refuses(model, optimizer, compiled)
        assert guard.events.decisions[0].origin == "bn.running_mean"
        model.bn.running_mean[0] = NAN
        compiled.eval()
        assert compiled(batch(0)[0]).isfinite().all()


def in_place(model):
    model.compile(backend="eager")
    return model


def its_forward(model):
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def a_part_in_place(model):
    model.bn.compile(backend="eager")
    return model


def around_it(model):
    return torch.compile(model, backend="eager")


def a_part(model):
    model.bn = torch.compile(model.bn, backend="eager")
    return model


@pytest.mark.parametrize("compiling", [in_place, its_forward, a_part_in_place])
def test_a_module_that_was_compiled_in_place_is_refused_aloud(compiling):
    model = compiling(net())
    with pytest.raises(UserError, match="hooks added now would never be called"):
        Guard(model, torch.optim.SGD(model.parameters(), 0.1))


def test_a_part_without_buffers_may_be_compiled_in_place():
    model = net()
    model.head.compile(backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer):
        train(model, optimizer, *batch(0))
        assert refuses(model, optimizer, model)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own, at a broken graph
@pytest.mark.parametrize("compiling", [in_place, its_forward, a_part_in_place, around_it])
def test_what_is_compiled_after_the_guard_was_made_is_guarded(compiling):
    torch.compiler.reset()  # torch would take the graph of another model of this class, which had no hooks
    model = net()
    statistics = model.bn
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer):
        call = compiling(model)
        train(call, optimizer, *batch(0))
        assert refuses(model, optimizer, call)
        statistics.running_mean[0] = NAN
        model.eval()
        assert call(batch(0)[0]).isfinite().all()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own, at a broken graph
def test_a_part_that_is_a_compiled_wrapper_is_guarded():
    model = a_part(net())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer):
        train(model, optimizer, *batch(0))
        assert refuses(model, optimizer, model)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is:DeprecationWarning")
def test_a_scripted_module_is_refused_aloud():
    model = torch.jit.script(nn.BatchNorm1d(3))
    with pytest.raises(UserError, match="is a ScriptModule"):
        Guard(model, torch.optim.SGD(model.parameters(), 0.1))


@pytest.mark.parametrize(("model", "optimizer"), [(None, None), (3, 4), ([], [])])
def test_what_is_no_model_or_optimizer_is_refused(model, optimizer):
    with pytest.raises(UserError, match="as model"):
        Guard(model, optimizer)


def test_the_guard_is_a_public_name():
    assert torchmend.Guard is Guard


def test_state_goes_through_a_save_in_the_middle_of_a_run():
    runs = []
    for restart in (False, True):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        guard = Guard(model, optimizer)
        for at in range(6):
            if restart and at == 3:
                saved = copy.deepcopy(guard.state_dict())
                guard.detach()
                guard = Guard(model, optimizer)
                guard.load_state_dict(saved)
            train(model, optimizer, *batch(at, bad=NAN if at == 1 else None))
        runs.append((guard.state_dict(), kept(model)))
        guard.detach()
    assert same(runs[0][1], runs[1][1])
    assert runs[0][0] == runs[1][0]
