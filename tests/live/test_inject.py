"""A planted fault comes when and where it was asked for, once, and a guard notices it."""

import pytest
import torch

from live.guard.training import batch, kept, net, same, train
from torchmend.facts.errors import UserError
from torchmend.live.guard.guard import Guard
from torchmend.live.inject import inject

PLACES = ["input", "output", "gradient", "buffer"]


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("fault", ["nan", "inf"])
def test_a_guard_undoes_what_was_planted(where, fault):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer) as guard, inject(model.bn, fault, where, at=2) as planted:
        for seed in range(2):
            train(model, optimizer, *batch(seed))
        state = kept(model)
        train(model, optimizer, *batch(2))
        assert same(kept(model), state)
        train(model, optimizer, *batch(3))
    assert (planted.planted, guard.events.counts["refuse"]) == (1, 1)


@pytest.mark.parametrize("where", [*PLACES, "weight"])
def test_without_a_guard_it_does_damage(where):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with inject(model.bn, "nan", where):
        train(model, optimizer, *batch(0))
    assert any(tensor.isnan().any() for tensor in model.state_dict().values())


def test_a_large_value_breaks_statistics_alone():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer) as guard, inject(model, "large", "input"):
        assert train(model, optimizer, *batch(0)).isfinite()
    assert guard.events.decisions[0].origin == "bn.running_var"


def test_nothing_is_planted_after_it_was_removed_or_in_evaluation():
    model = net()
    planted = inject(model, "nan", "output", times=100)
    model.eval()
    assert model(batch(0)[0]).isfinite().all()
    model.train()
    planted.remove()
    assert model(batch(0)[0]).isfinite().all()
    assert planted.planted == 0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("zero",), "none of nan, inf, large"),
        (("nan", "loss"), "none of input, output"),
        (("nan", "buffer"), "no floating"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, match):
    with pytest.raises(UserError, match=match):
        inject(torch.nn.Linear(2, 2), *arguments)


def test_a_module_without_parameters_has_no_gradient():
    with pytest.raises(UserError, match="has no parameters"):
        inject(torch.nn.ReLU(), "nan", "gradient")


def test_a_weight_in_another_memory_format_gets_its_fault():
    model = net().to(memory_format=torch.channels_last)
    with inject(model.conv, "nan", "weight") as planted:
        model(batch(0)[0])
    assert planted.planted == int(model.conv.weight.isnan().sum()) == 1


def test_an_input_of_integers_is_refused_with_a_reason():
    layer = torch.nn.Embedding(4, 4)
    with inject(layer, "nan", "input"), pytest.raises(UserError, match=r"torch\.int64"):
        layer(torch.tensor([1]))


def test_a_module_that_is_called_by_keywords_alone_is_refused_with_a_reason():
    layer = torch.nn.Linear(2, 2)
    with inject(layer, "nan", "input"), pytest.raises(UserError, match="keywords"):
        layer(input=torch.ones(1, 2))
