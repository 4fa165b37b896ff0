"""What a step did to the weights: ratios by definition, parameters that stand still, and those that may."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from live.guard.sensing.loops import Noisy, run
from live.guard.test_cost import Reads
from live.guard.training import OPTIMIZERS, batch, kept, net, same
from torchmend.facts.codes import Code, Severity
from torchmend.live.guard.sensing.updates import Updates

KINDS = pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.name)


def sensor_of(optimizer, model):
    return Updates(optimizer, lambda: dict(model.named_parameters()))


def stepped(sensor, optimizer):
    """Take a sampled step with the gradients as they are, and judge it."""
    sensor.before()
    optimizer.step()
    figures = sensor.after()
    return None if figures is None else sensor.judge(figures.tolist())


def reports(optimizer, model, gradients, steps=4, sensor=None):
    """Take sampled steps; `gradients` sets them."""
    sensor = sensor or sensor_of(optimizer, model)
    found = []
    for step in range(steps):
        for each in model.parameters():
            each.grad = torch.ones_like(each)
        gradients(step)
        found.append(stepped(sensor, optimizer))
    return found


def ordinary(_):
    pass


def linear(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Linear(4, 3).to(dtype)


@KINDS
def test_the_largest_ratio_is_that_of_its_definition_whatever_the_optimizer(kind):
    model = net()
    optimizer = kind.make(list(model.parameters()))
    sensor = sensor_of(optimizer, model)
    for seed in range(3):
        images, labels = batch(seed)
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        before = {name: each.detach().double().clone() for name, each in model.named_parameters()}
        report = stepped(sensor, optimizer)
        ratios = {
            name: float((each.detach().double() - before[name]).norm() / before[name].norm())
            for name, each in model.named_parameters()
            if each.dim() > 1
        }
        name = max(ratios, key=ratios.get)
        assert report.name == name
        assert report.ratio == pytest.approx(ratios[name], rel=1e-4)


@KINDS
def test_ordinary_training_leaves_nothing_still_whatever_the_optimizer(kind):
    model = net()
    optimizer = kind.make(list(model.parameters()))
    sensor = sensor_of(optimizer, model)
    for seed in range(8):
        images, labels = batch(seed)
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        assert stepped(sensor, optimizer).still == ()


def test_vectors_and_matrices_of_zeros_have_no_ratio():
    model = linear()
    nn.init.zeros_(model.weight)
    (report,) = reports(torch.optim.SGD(model.parameters(), 0.1), model, ordinary, steps=1)
    assert (report.ratio, report.name) == (0.0, "")


def test_an_update_with_nan_is_infinitely_large():
    model = linear()

    def gradients(_):
        model.weight.grad[0, 0] = math.nan

    (report,) = reports(torch.optim.SGD(model.parameters(), 0.1), model, gradients, steps=1)
    assert (report.ratio, report.name) == (math.inf, "weight")


def test_a_learning_rate_that_is_too_high_shows_as_a_ratio_above_one():
    model = linear()
    (report,) = reports(torch.optim.SGD(model.parameters(), 10.0), model, ordinary, steps=1)
    assert report.ratio > 1


def test_frozen_moments_are_told_after_three_samples_and_once():
    model = linear()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.0)

    def gradients(step):
        if step == 0:
            model.weight.grad.fill_(1e25)  # its square is not finite

    found = reports(optimizer, model, gradients, steps=6)
    assert [report.still for report in found] == [(), (), (), ("weight",), ("weight",), ("weight",)]
    (finding,) = [each for report in found for each in report.findings]
    assert (finding.code, finding.severity) == (Code.UPDATES_VANISH, Severity.WARNING)
    assert finding.detail.startswith("weight: no element moved in 3 sampled steps in a row")
    assert optimizer.state[model.weight]["exp_avg_sq"].isinf().all()


def test_updates_below_the_spacing_of_bfloat16_are_told():
    model = linear(torch.bfloat16)
    model.bias.data.fill_(1.0)
    model.weight.data.fill_(1e-4)
    found = reports(torch.optim.SGD(model.parameters(), 1e-4), model, ordinary, steps=3)
    assert [report.still for report in found] == [(), (), ("bias",)]


def test_float32_moves_by_the_same_updates():
    model = linear()
    model.bias.data.fill_(1.0)
    assert reports(torch.optim.SGD(model.parameters(), 1e-4), model, ordinary, steps=3)[-1].still == ()


def test_a_parameter_that_moved_in_between_is_told_again():
    model = linear(torch.bfloat16)
    model.bias.data.fill_(1.0)

    def gradients(step):
        model.bias.grad.fill_(100.0 if step == 4 else 1.0)

    found = reports(torch.optim.SGD(model.parameters(), 1e-4), model, gradients, steps=8)
    assert [bool(report.findings) for report in found] == [False, False, True, False, False, False, False, True]


@pytest.mark.parametrize("rate", [0.0, torch.tensor(0.0)], ids=["number", "tensor"])
def test_a_group_whose_learning_rate_is_zero_may_stand_still(rate):
    model = linear()
    groups = [{"params": [model.weight]}, {"params": [model.bias], "lr": rate}]
    optimizer = torch.optim.Adam(groups, 0.1, foreach=False, capturable=False)
    assert reports(optimizer, model, ordinary)[-1].still == ()


def test_a_learning_rate_that_is_a_tensor_does_not_hide_what_stands_still():
    model = linear()
    model.bias.data.fill_(1e9)
    optimizer = torch.optim.Adam(model.parameters(), torch.tensor(0.01), foreach=False)
    assert reports(optimizer, model, ordinary)[-1].still == ("bias",)


def test_the_end_of_a_schedule_may_stand_still():
    model = linear()
    model.bias.data.fill_(1.0)
    optimizer = torch.optim.SGD(model.parameters(), 1e-9)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    assert reports(optimizer, model, ordinary)[-1].still == ()


def test_a_gradient_that_is_rounding_only_may_move_nothing():
    model = linear()

    def gradients(_):
        model.bias.grad.fill_(1e-9)

    assert reports(torch.optim.SGD(model.parameters(), 0.01), model, gradients)[-1].still == ()


def test_a_bias_before_a_normalisation_may_stand_still_in_a_real_training():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    sensor = sensor_of(optimizer, model)
    stood = 0
    for seed in range(8):
        images, labels = batch(seed)
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        before = model.conv.bias.detach().clone()
        assert stepped(sensor, optimizer).still == ()
        stood += bool(torch.equal(before, model.conv.bias) and model.conv.bias.grad.any())
    assert stood >= 3


def test_a_parameter_without_gradient_or_with_zeros_may_stand_still():
    model = linear()

    def gradients(_):
        model.weight.grad = None
        model.bias.grad.zero_()

    assert reports(torch.optim.SGD(model.parameters(), 0.1), model, gradients)[-1].still == ()


def test_a_step_that_a_fused_optimizer_leaves_out_does_not_count():
    model = linear()
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, fused=True)
    optimizer.grad_scale, optimizer.found_inf = None, torch.tensor(1.0)

    def gradients(_):
        model.weight.grad[0, 0] = math.inf

    found = reports(optimizer, model, gradients, steps=4)
    assert [(report.ratio, report.still) for report in found] == [(0.0, ())] * 4


def test_optimizers_that_search_may_find_no_step():
    model = linear()
    optimizer = torch.optim.LBFGS(model.parameters(), 0.1)
    sensor = sensor_of(optimizer, model)
    for _ in range(4):
        for each in model.parameters():
            each.grad = torch.ones_like(each)
        sensor.before()
        assert sensor.judge(sensor.after().tolist()).still == ()


def test_parameters_of_several_types_are_compared_at_once():
    model = nn.ParameterDict(
        {
            "of_half": torch.full((2, 2), 2.0, dtype=torch.float16),
            "of_double": torch.full((2, 2), 4.0, dtype=torch.float64),
            "of_single": torch.full((2, 2), 8.0),
            "of_complex": torch.full((2, 2), 8.0j, dtype=torch.complex64),
            "of_empty": torch.zeros(0, 3),
        }
    )
    optimizer = torch.optim.SGD(model.parameters(), 1.0, foreach=False)
    sensor = sensor_of(optimizer, model)
    (report,) = reports(optimizer, model, ordinary, steps=1, sensor=sensor)
    assert (report.name, report.ratio) == ("of_half", 0.5)
    assert report.still == ()


def test_large_half_precision_parameters_have_norms_beyond_half_precision():
    model = nn.ParameterDict({"wide": torch.full((100, 100), 1000.0, dtype=torch.float16)})
    optimizer = torch.optim.SGD(model.parameters(), 100.0)
    (report,) = reports(optimizer, model, ordinary, steps=1)
    assert report.ratio == pytest.approx(0.1, rel=1e-4)


def test_sparse_gradients_are_compared():
    model = nn.Embedding(10, 4, sparse=True)
    optimizer = torch.optim.SparseAdam(model.parameters(), 0.01)
    sensor = sensor_of(optimizer, model)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.tensor([1, 1, 3])).sum().backward()
        report = stepped(sensor, optimizer)
        assert report.name == "weight"
        assert report.ratio > 0
        assert report.still == ()


def test_without_gradients_there_are_no_figures():
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert stepped(sensor_of(optimizer, model), optimizer) is None


def test_after_without_before_and_after_a_drop_there_are_no_figures():
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sensor = sensor_of(optimizer, model)
    assert sensor.after() is None
    model.weight.grad = torch.ones_like(model.weight)
    sensor.before()
    sensor.drop()
    assert sensor.after() is None


def test_parameters_of_other_optimizers_are_left_to_them():
    model = linear()
    optimizer = torch.optim.SGD([model.bias], 0.1)
    (report,) = reports(optimizer, model, ordinary, steps=1)
    assert report.name == ""


def test_figures_may_be_read_after_the_next_sample_began():
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sensor = sensor_of(optimizer, model)
    figures = []
    for chosen in (model.weight, model.bias):
        optimizer.zero_grad()
        chosen.grad = torch.ones_like(chosen)
        sensor.before()
        optimizer.step()
        figures.append(sensor.after().tolist())
    assert [sensor.judge(each).name for each in figures] == ["weight", ""]


def test_what_was_seen_is_remembered_over_a_restart():
    model = linear(torch.bfloat16)
    model.bias.data.fill_(1.0)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    sensor, again = sensor_of(optimizer, model), sensor_of(optimizer, model)
    reports(optimizer, model, ordinary, steps=2, sensor=sensor)
    again.load_state_dict(sensor.state_dict())
    (report,) = reports(optimizer, model, ordinary, steps=1, sensor=again)
    assert report.findings != ()


def test_nothing_is_read_from_the_device(monkeypatch):
    model = nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), torch.tensor(0.1), foreach=False)
    sensor = sensor_of(optimizer, model)
    model(torch.tensor([1, 1, 3])).sum().backward()
    with Reads(monkeypatch) as reads:
        sensor.before()
        sensor.after()
    assert reads.count == 0


def test_training_is_the_same_to_the_last_bit():
    states = []
    for looks in (False, True):
        torch.manual_seed(0)
        model = Noisy()
        optimizer = torch.optim.AdamW(model.parameters(), 0.1)
        sensor = sensor_of(optimizer, model)

        def around(_, what, looks=looks, sensor=sensor):
            if looks and what in ("step", "end"):
                sensor.before() if what == "step" else sensor.after()

        run(model, optimizer, around)
        states.append([*kept(model, optimizer), torch.get_rng_state()])
    assert same(*states)
