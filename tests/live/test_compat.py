"""The classic recipe's three functions: every norm class, every dtype, nothing healthy changed."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import checkpoints
import torchmend
from torchmend import check_model_health, configure_bn_for_stability, sanitize_model_bn_stats
from torchmend.facts.codes import Code, Severity

NAN, INF = float("nan"), float("inf")

NORMS = {
    "BatchNorm1d": lambda: nn.BatchNorm1d(6),
    "BatchNorm2d": lambda: nn.BatchNorm2d(6),
    "BatchNorm3d": lambda: nn.BatchNorm3d(6),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(6),
    "LazyBatchNorm1d": lambda: initialised(nn.LazyBatchNorm1d(), torch.randn(4, 6)),
    "LazyBatchNorm2d": lambda: initialised(nn.LazyBatchNorm2d(), torch.randn(4, 6, 2, 2)),
    "LazyBatchNorm3d": lambda: initialised(nn.LazyBatchNorm3d(), torch.randn(4, 6, 2, 2, 2)),
    "InstanceNorm1d": lambda: nn.InstanceNorm1d(6, track_running_stats=True),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(6, track_running_stats=True),
    "InstanceNorm3d": lambda: nn.InstanceNorm3d(6, track_running_stats=True),
}


def initialised(layer, batch):
    layer(batch)
    return layer


def moved(layer):
    """Give a layer statistics that are not those it is made with."""
    generator = torch.Generator().manual_seed(0)
    layer.running_mean.copy_(torch.randn(6, generator=generator))
    layer.running_var.copy_(torch.rand(6, generator=generator) + 0.5)
    return layer


@pytest.fixture(params=NORMS.values(), ids=NORMS)
def network(request):
    return nn.Sequential(nn.Linear(3, 6), moved(request.param()))


# check_model_health


def test_a_sound_model_is_healthy(network):
    assert check_model_health(network) == (True, [])
    assert check_model_health(network, check_weights=True) == (True, [])


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
@pytest.mark.parametrize(
    ("value", "counts"), [(NAN, "NaN: 2, Inf: 0"), (INF, "NaN: 0, Inf: 2"), (-INF, "NaN: 0, Inf: 2")]
)
def test_a_corrupted_statistic_is_found_and_said_in_the_classic_words(network, name, value, counts):
    getattr(network[1], name)[[1, 4]] = value
    healthy, issues = check_model_health(network)
    assert not healthy
    assert [str(issue) for issue in issues] == [f"Corrupted {name}: 1 ({counts})"]


def test_a_negative_variance_is_found(network):
    network[1].running_var[2] = -0.5
    healthy, (issue,) = check_model_health(network)
    assert not healthy
    assert str(issue) == "Corrupted running_var: 1 (NaN: 0, Inf: 0, negative: 1)"
    assert issue.finding.code is Code.VARIANCE_NEGATIVE


def test_a_negative_mean_is_sound(network):
    network[1].running_mean.fill_(-3.0)
    assert check_model_health(network)[0]


def test_weights_are_looked_at_only_on_request(network):
    network[0].weight.data[0, 1] = NAN
    network[0].bias.data[2] = -INF
    assert check_model_health(network) == (True, [])
    healthy, issues = check_model_health(network, check_weights=True)
    assert not healthy
    assert sorted(map(str, issues)) == [
        "Corrupted bias: 0.bias (NaN: 0, Inf: 1)",
        "Corrupted weight: 0.weight (NaN: 1, Inf: 0)",
    ]


def test_an_issue_knows_its_name_and_its_finding():
    network = nn.Sequential(nn.BatchNorm1d(2))
    network[0].running_var.fill_(NAN)
    issue = check_model_health(network)[1][0]
    assert (issue.name, issue.finding.severity) == ("0", Severity.ERROR)
    assert issue.finding.measure.nan == 2


def test_a_model_that_is_a_norm_itself_has_a_name_too():
    network = nn.BatchNorm1d(2)
    network.running_mean.fill_(INF)
    assert str(check_model_health(network)[1][0]) == "Corrupted running_mean: the model itself (NaN: 0, Inf: 2)"


def test_what_is_only_unusual_is_no_issue():
    network = nn.Linear(100, 100)
    network.weight.data.fill_(1e5)  # TM204 and TM205
    assert torchmend.diagnose(network).findings
    assert check_model_health(network, check_weights=True) == (True, [])


def test_finite_weights_whose_norm_overflows_are_healthy():
    network = nn.Linear(100, 100)
    network.weight.data.fill_(1e37)
    assert check_model_health(network, check_weights=True) == (True, [])


def test_infinities_in_a_mask_are_legal():
    network = nn.Linear(2, 2)
    network.register_buffer("mask", torch.full((3, 3), -INF).triu(1))
    assert check_model_health(network, check_weights=True) == (True, [])


def test_a_frozen_norm_of_another_library_is_checked_too():
    network = nn.Module()
    network.register_buffer("running_mean", torch.zeros(3))
    network.register_buffer("running_var", torch.tensor([1.0, NAN, 1.0]))
    assert not check_model_health(network)[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_weights_of_every_type_are_checked(dtype):
    network = nn.ModuleDict({"layer": nn.Linear(8, 8, dtype=dtype)})
    assert check_model_health(network, check_weights=True)[0]
    network["layer"].weight.data[3, 3] = NAN
    assert not check_model_health(network, check_weights=True)[0]


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.float8_e4m3fn, torch.float8_e4m3fnuz])
def test_float8_weights_are_checked(dtype):
    network = nn.Module()
    network.weight = nn.Parameter(torch.randn(4, 4).to(dtype), requires_grad=False)
    assert check_model_health(network, check_weights=True)[0]
    network.weight.data.view(torch.uint8)[2, 2] = torch.tensor(NAN).to(dtype).view(torch.uint8)
    assert not check_model_health(network, check_weights=True)[0]


def test_wrapped_models_have_longer_names():
    network = nn.Sequential(nn.BatchNorm1d(3))
    network[0].running_mean[0] = NAN
    wrapped = nn.Module()
    wrapped.module = network
    assert "module.0 (" in str(check_model_health(wrapped)[1][0])
    assert "_orig_mod.0 (" in str(check_model_health(torch.compile(network, backend="eager"))[1][0])


def test_a_lazy_model_before_its_first_batch_is_healthy():
    network = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    assert check_model_health(network, check_weights=True) == (True, [])
    assert sanitize_model_bn_stats(network) == 0


def test_a_shared_layer_is_one_issue():
    norm = nn.BatchNorm1d(3)
    norm.running_mean[0] = NAN
    assert len(check_model_health(nn.ModuleList([norm, norm]))[1]) == 1


@pytest.mark.parametrize("seed", range(30))
def test_the_quick_verdict_is_that_of_the_diagnosis(seed):
    chance = np.random.default_rng(seed)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), moved(nn.BatchNorm2d(6)), nn.Linear(6, 6))
    tensors = [t for t in network.state_dict().values() if t.is_floating_point()]
    for _ in range(chance.integers(0, 3)):
        victim = tensors[chance.integers(len(tensors))].view(-1)
        victim[chance.integers(len(victim))] = [NAN, INF, -INF, -2.0, 0.0, 3e38][chance.integers(6)]
    assert check_model_health(network, check_weights=True)[0] is torchmend.diagnose(network).healthy


# sanitize_model_bn_stats


def sanitized(network):
    lines = []
    count = sanitize_model_bn_stats(network, write=lines.append)
    return count, lines


def test_a_sound_model_is_left_as_it_is(network):
    before = pickle.dumps(network.state_dict())
    assert sanitized(network) == (0, [])
    assert pickle.dumps(network.state_dict()) == before


@pytest.mark.parametrize(("name", "value"), [("running_mean", 0.0), ("running_var", 1.0)])
@pytest.mark.parametrize("damage", [NAN, INF])
def test_a_wholly_corrupted_statistic_goes_back_to_0_or_1(network, name, value, damage):
    getattr(network[1], name).fill_(damage)
    assert sanitized(network) == (1, [f"[SANITIZE] Resetting corrupted {name}: 1"])
    assert getattr(network[1], name).eq(value).all()


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_a_partly_corrupted_statistic_keeps_its_survivors_bit_for_bit(network, name):
    statistic = getattr(network[1], name)
    before = statistic.clone()
    statistic[[1, 4]] = NAN
    assert sanitized(network) == (1, [f"[SANITIZE] Resetting corrupted {name}: 1"])
    assert statistic[[0, 2, 3, 5]].equal(before[[0, 2, 3, 5]])
    assert statistic.isfinite().all()


def test_a_partly_corrupted_statistic_is_predicted_not_reset():
    network = nn.Sequential(nn.BatchNorm1d(64))
    network[0].running_var.fill_(5000.0)
    network[0].running_var[[1, 2]] = NAN
    sanitize_model_bn_stats(network, verbose=False)
    assert network[0].running_var[[1, 2]].allclose(torch.tensor(5000.0))


def test_the_values_are_those_of_a_repair(network):
    network[1].running_mean[3] = INF
    twin = copy.deepcopy(network)
    sanitize_model_bn_stats(network, verbose=False)
    torchmend.repair(twin)
    assert network[1].running_mean.equal(twin[1].running_mean)


def test_a_negative_variance_is_repaired(network):
    network[1].running_var[2] = -1.0
    assert sanitized(network)[0] == 1
    assert (network[1].running_var > 0).all()


def test_every_corrupted_statistic_is_counted_and_said():
    network = checkpoints.Network()
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.fill_(INF)
        norm.running_var[0] = NAN
    count, lines = sanitized(network)
    assert count == len(lines) == 2 * len(norms) == 6
    assert lines[:2] == [
        "[SANITIZE] Resetting corrupted running_mean: stem.1",
        "[SANITIZE] Resetting corrupted running_var: stem.1",
    ]
    assert torchmend.diagnose(network).healthy


def test_the_lines_are_printed_by_default(capsys):
    network = nn.BatchNorm1d(2)
    network.running_mean.fill_(NAN)
    sanitize_model_bn_stats(network)
    assert capsys.readouterr().out == "[SANITIZE] Resetting corrupted running_mean: the model itself\n"


def test_nothing_is_printed_when_it_is_not_to_be_verbose(capsys):
    network = nn.BatchNorm1d(2)
    network.running_mean.fill_(NAN)
    assert sanitize_model_bn_stats(network, verbose=False) == 1
    assert capsys.readouterr().out == ""


def test_a_shared_layer_is_repaired_and_counted_once():
    norm = moved(nn.BatchNorm1d(6))
    norm.running_mean[2] = NAN
    assert sanitized(nn.ModuleList([norm, norm])) == (1, ["[SANITIZE] Resetting corrupted running_mean: 0"])


def test_weights_are_left_alone():
    network = nn.Sequential(nn.Linear(3, 6), moved(nn.BatchNorm1d(6)))
    network[0].weight.data[0, 0] = NAN
    network[1].running_mean[2] = NAN
    assert sanitized(network)[0] == 1
    assert network[0].weight.isnan().sum() == 1


def test_evaluation_works_again_afterwards():
    network = nn.Sequential(nn.Linear(3, 6), moved(nn.BatchNorm1d(6))).eval()
    network[1].running_var[1] = INF
    network[1].running_mean[2] = NAN
    sanitize_model_bn_stats(network, verbose=False)
    assert network(torch.randn(4, 3)).isfinite().all()


def test_a_sanitised_model_can_be_copied_and_pickled(network):
    network[1].running_mean[2] = NAN
    sanitize_model_bn_stats(network, verbose=False)
    assert check_model_health(pickle.loads(pickle.dumps(copy.deepcopy(network))))[0]


# configure_bn_for_stability


def test_momentum_and_eps_are_set(network):
    assert configure_bn_for_stability(network) == 1
    assert (network[1].momentum, network[1].eps) == (0.01, 1e-3)


def test_they_can_be_chosen(network):
    assert configure_bn_for_stability(network, momentum=None, eps=1e-4) == 1
    assert (network[1].momentum, network[1].eps) == (None, 1e-4)


@pytest.mark.parametrize("kind", [nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyInstanceNorm1d])
def test_a_lazy_norm_that_keeps_statistics_is_set_before_its_first_batch(kind):
    options = {"track_running_stats": True}
    network = nn.Sequential(kind(**options))
    assert configure_bn_for_stability(network) == 1
    assert network[0].eps == 1e-3


@pytest.mark.parametrize("layer", [nn.InstanceNorm1d(3), nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.Linear(3, 3)])
def test_layers_without_statistics_are_left_alone(layer):
    before = copy.deepcopy(vars(layer).get("eps"))
    assert configure_bn_for_stability(nn.Sequential(layer)) == 0
    assert vars(layer).get("eps") == before


def test_a_batch_norm_that_does_not_track_is_set_all_the_same():
    assert configure_bn_for_stability(nn.BatchNorm1d(3, track_running_stats=False)) == 1


def test_a_shared_layer_is_set_and_counted_once():
    norm = nn.BatchNorm1d(3)
    assert configure_bn_for_stability(nn.ModuleList([norm, norm])) == 1


def test_a_norm_of_another_library_that_looks_like_one_is_set():
    layer = nn.Module()
    layer.register_buffer("running_mean", torch.zeros(3))
    layer.register_buffer("running_var", torch.ones(3))
    layer.momentum, layer.eps = 0.1, 1e-5
    assert configure_bn_for_stability(layer) == 1
    assert layer.momentum == 0.01


@pytest.mark.parametrize("momentum", [-0.1, 1.5, NAN])
def test_a_momentum_out_of_range_is_a_mistake(momentum):
    with pytest.raises(torchmend.UserError, match="from 0 to 1"):
        configure_bn_for_stability(nn.BatchNorm1d(3), momentum=momentum)


@pytest.mark.parametrize("eps", [0.0, -1e-3, INF, NAN])
def test_an_eps_out_of_range_is_a_mistake(eps):
    with pytest.raises(torchmend.UserError, match="above 0"):
        configure_bn_for_stability(nn.BatchNorm1d(3), eps=eps)


@pytest.mark.parametrize("function", [check_model_health, sanitize_model_bn_stats, configure_bn_for_stability])
@pytest.mark.parametrize("model", [{"weight": torch.ones(2)}, "x.pth", None, nn.Linear])
def test_something_else_than_a_module_is_a_type_error(function, model):
    with pytest.raises(TypeError, match=r"Pass a torch.nn.Module"):
        function(model)
