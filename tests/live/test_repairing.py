"""Repair in place: the values that a repaired file would have, nothing else touched, nothing that autograd sees."""

import argparse
import copy
import pickle

import pytest
import torch
from torch import nn

import checkpoints
import torchmend
from torchmend.facts.plans import Rung

NAN, INF = float("nan"), float("inf")
KINDS = {2: torch.int16, 4: torch.int32, 8: torch.int64, 1: torch.uint8}


def bits(tensor):
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.detach().clone().contiguous().view(KINDS[tensor.element_size()])


def tensors(value, path=()):
    """Yield every tensor below a nest of dictionaries and lists, with its path."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from tensors(each, (*path, key))


def second_and_first(checkpoint):
    checkpoint = checkpoints.moment(checkpoint, "exp_avg_sq", INF, [0, 5])
    return checkpoints.moment(checkpoint, "exp_avg", NAN, [1, 5])


def with_average(checkpoint):
    checkpoint["ema"] = copy.deepcopy(checkpoint["model_state_dict"])
    checkpoint = checkpoints.nan_channels(checkpoints.nan_weight(checkpoint))
    checkpoint["ema"][checkpoints.HEAD_BIAS][2] = NAN
    return checkpoint


DAMAGE = {
    "one whole mean": checkpoints.infinite_mean,
    "some of a mean": checkpoints.nan_channels,
    "some of a variance": lambda c: checkpoints.nan_channels(c, name=checkpoints.VAR),
    "a whole variance": lambda c: checkpoints.set_elements(c, checkpoints.VAR, NAN),
    "negative variance": checkpoints.negative_variance,
    "mean and variance": lambda c: checkpoints.nan_channels(checkpoints.negative_variance(c)),
    "a layer": lambda c: checkpoints.set_elements(checkpoints.infinite_mean(c), checkpoints.VAR, INF),
    "stem": lambda c: checkpoints.nan_channels(c, [0, 1, 2], "stem.1.running_mean"),
    "weight": checkpoints.nan_weight,
    "statistic and weight": lambda c: checkpoints.nan_channels(checkpoints.nan_weight(c)),
    "second moment": checkpoints.infinite_second_moment,
    "negative second moment": checkpoints.negative_second_moment,
    "first moment": checkpoints.nan_first_moment,
    "both moments": second_and_first,
    "averaged copy": with_average,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("strategy", torchmend.Strategy)
def test_a_live_repair_gives_the_values_of_a_repaired_file(tmp_path, damage, strategy):
    donor = checkpoints.save(checkpoints.training_checkpoint(seed=1), tmp_path / "donor.pth")
    path = checkpoints.save(damage(checkpoints.training_checkpoint()), tmp_path / "x.pth")
    options = torchmend.FixOptions(donors=(donor,), strategy=strategy)
    live = checkpoints.load(path)
    result = torchmend.repair(live, donors=[donor], strategy=strategy)
    fixed = checkpoints.load(torchmend.fix(path, options).output)
    assert result.succeeded
    for (name, mine), (_, theirs) in zip(tensors(live), tensors(fixed), strict=True):
        assert torch.equal(bits(mine), bits(theirs)), name


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_only_what_the_plan_names_changes(damage):
    live = damage(checkpoints.training_checkpoint())
    before = {path: bits(tensor) for path, tensor in tensors(live)}
    result = torchmend.repair(live, donors=[checkpoints.training_checkpoint(seed=1)])
    changed = {path: int((bits(tensor) != before[path]).sum()) for path, tensor in tensors(live)}
    touched = {".".join(map(str, path)): count for path, count in changed.items() if count}
    planned = {edit.ref.path: edit for edit in result.plan.edits}
    assert touched.keys() <= planned.keys()
    own = {path: count for path, count in touched.items() if not getattr(planned[path].change, "also", ())}
    assert all(count == planned[path].count for path, count in own.items())


def test_second_moments_are_zeroed_with_their_first_moments_even_if_those_are_written_first():
    network = nn.Linear(4, 1, bias=False)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    state = optimizer.state[network.weight]
    state["exp_avg"][0, 0] = NAN
    state["exp_avg_sq"][0, 2] = INF
    assert torchmend.repair(network, optimizer).succeeded
    assert state["exp_avg"].eq(0).tolist() == [[True, False, True, False]]
    assert state["exp_avg_sq"].eq(0).tolist() == [[False, False, True, False]]


def network_with(norm=nn.BatchNorm2d, dtype=torch.float32):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), norm(16), nn.ReLU(), nn.Conv2d(16, 16, 1), norm(16))
    for layer in network:
        if hasattr(layer, "running_mean"):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
    return network.to(dtype)


def test_a_repair_between_forward_and_backward_does_not_disturb_autograd():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8).eval(), nn.Conv2d(8, 8, 1))
    network[1].running_mean[2] = NAN
    loss = network(torch.randn(2, 3, 5, 5)).nan_to_num().square().mean()
    versions = {name: t._version for name, t in [*network.named_parameters(), *network.named_buffers()]}
    assert torchmend.repair(network).succeeded
    assert {n: t._version for n, t in [*network.named_parameters(), *network.named_buffers()]} == versions
    loss.backward()


def test_the_same_write_without_care_would_raise():
    network = nn.BatchNorm1d(8).eval()
    loss = network(torch.randn(4, 8, requires_grad=True)).sum()
    with torch.no_grad():
        network.running_mean.copy_(torch.zeros(8))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_repair_in_training_mode_between_forward_and_backward_does_not_disturb_autograd():
    network = network_with().train()
    network[1].running_var[3] = INF
    loss = network(torch.randn(2, 3, 5, 5)).square().mean()
    assert torchmend.sanitize_model_bn_stats(network, verbose=False) == 1
    loss.backward()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_a_repair_works_in_every_grad_mode(mode):
    network = network_with()
    network[1].running_mean[3] = INF
    with mode():
        assert torchmend.repair(network).succeeded
    assert torchmend.diagnose(network).healthy


def test_tensors_made_in_inference_mode_are_repaired():
    with torch.inference_mode():
        network = network_with()
        network[1].running_mean[3] = INF
    assert torchmend.repair(network).succeeded


def test_parameters_that_require_grad_are_repaired_and_keep_their_gradients():
    network, donor = nn.Linear(3, 2), nn.Linear(3, 2)
    network(torch.ones(1, 3)).sum().backward()
    gradient = network.weight.grad.clone()
    weight = network.weight
    weight.data[1, 1] = NAN
    assert torchmend.repair(network, donors=[donor]).succeeded
    assert network.weight is weight
    assert weight.requires_grad
    assert weight.grad.equal(gradient)
    assert weight[1, 1] == donor.weight[1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_statistics_of_every_width_are_repaired(dtype):
    network = network_with(dtype=dtype)
    network[1].running_mean[[3, 7]] = NAN
    network[4].running_var[2] = -1.0
    before = bits(network[1].running_mean)
    assert torchmend.repair(network).succeeded
    unchanged = [i for i in range(16) if i not in (3, 7)]
    assert torch.equal(bits(network[1].running_mean)[unchanged], before[unchanged])


FLOAT8 = [torch.float8_e5m2, torch.float8_e4m3fn, torch.float8_e5m2fnuz, torch.float8_e4m3fnuz]


@pytest.mark.parametrize("dtype", FLOAT8)
def test_float8_weights_are_repaired_from_a_donor(dtype):
    sound = torch.randn(4, 4).to(dtype)
    broken = sound.clone()
    broken.view(torch.uint8)[1, 2] = torch.tensor(NAN).to(dtype).view(torch.uint8)
    state = {"weight": broken, "bias": torch.zeros(4)}
    assert torchmend.diagnose(state).findings[0].measure.nan == 1
    assert torchmend.repair(state, donors=[{"weight": sound, "bias": torch.zeros(4)}]).succeeded
    assert torch.equal(bits(broken), bits(sound))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_weights_are_repaired_from_a_donor(dtype):
    sound = torch.randn(4, 3, dtype=dtype)
    broken = sound.clone()
    broken[2, 1] = complex(1.0, NAN)
    assert torchmend.repair({"weight": broken}, donors=[{"weight": sound}]).succeeded
    assert torch.equal(bits(broken), bits(sound))


LAYOUTS = {
    "transposed": lambda t: t.t().contiguous().t(),
    "every other": lambda t: torch.stack([t, t], dim=-1)[..., 0],
    "conjugated": lambda t: torch.complex(t, t).conj_physical().conj(),
    "negated": lambda t: torch._neg_view(-t),
    "offset": lambda t: torch.zeros(100)[7 : 7 + t.numel()].view(t.shape).copy_(t),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_tensor_of_any_layout_is_repaired_where_it_lies(layout):
    sound = torch.randn(4, 6)
    broken = sound.clone()
    broken[1, 4] = NAN
    view, wanted = layout(broken), layout(sound)
    assert torchmend.repair({"weight": view}, donors=[{"weight": wanted}]).succeeded
    assert view.resolve_conj().resolve_neg().equal(wanted.resolve_conj().resolve_neg())


def test_channels_last_weights_are_repaired():
    network, donor = network_with().to(memory_format=torch.channels_last), network_with()
    network[0].weight.data[3, 1, 2, 0] = NAN
    assert torchmend.repair(network, donors=[donor]).succeeded
    assert network[0].weight.equal(donor[0].weight)


def test_a_shared_layer_is_repaired_once():
    norm = nn.BatchNorm1d(8)
    norm.running_mean[2] = NAN
    result = torchmend.repair(nn.ModuleList([norm, norm]))
    assert result.succeeded
    assert norm.running_mean.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        (torch.optim.AdamW, {}, "exp_avg_sq"),
        (torch.optim.AdamW, {"fused": True}, "exp_avg_sq"),
        (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}, "momentum_buffer"),
    ],
)
def test_an_optimizer_is_repaired_in_place_and_goes_on(kind, options, name):
    network = nn.Linear(4, 2)
    optimizer = kind(network.parameters(), **options)
    network(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    buffer = optimizer.state[network.weight][name]
    buffer[0, 1] = INF
    result = torchmend.repair(network, optimizer)
    assert result.succeeded
    assert buffer is optimizer.state[network.weight][name]
    assert buffer[0, 1] == 0
    optimizer.step()
    assert torchmend.diagnose(network, optimizer).healthy


def test_a_learning_rate_is_set_in_the_optimizer_when_metadata_is_to_be_repaired():
    network = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    torch.optim.lr_scheduler.StepLR(optimizer, 3)  # leaves initial_lr behind
    optimizer.param_groups[0]["lr"] = NAN
    assert not torchmend.repair(network, optimizer).succeeded
    assert torchmend.repair(network, optimizer, metadata=True).succeeded
    assert optimizer.param_groups[0]["lr"] == 1e-3


def test_a_number_in_a_dictionary_is_set_when_metadata_is_to_be_repaired():
    checkpoint = checkpoints.training_checkpoint() | {"history": {"best_psnr": NAN}}
    assert torchmend.repair(checkpoint, metadata=True).after.findings == ()
    assert checkpoint["history"]["best_psnr"] == -INF


def test_a_number_inside_a_tuple_is_left_alone_and_refused():
    checkpoint = {"weight": torch.ones(2), "lr": ({"base_lrs": (NAN,)},), "initial_lr": 0.1}
    (refusal,) = torchmend.repair(checkpoint, metadata=True).plan.refused
    assert refusal.place == "lr.0.base_lrs.0"


def test_an_optimizer_starts_afresh_on_request():
    network = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    result = torchmend.repair(network, optimizer, reset_optimizer=True)
    assert {edit.rung for edit in result.plan.edits} == {Rung.FRESH}
    assert all(not tensor.any() for state in optimizer.state.values() for tensor in state.values())


def test_a_dry_run_writes_nothing():
    network = network_with()
    network[1].running_mean[2] = NAN
    result = torchmend.repair(network, dry_run=True)
    assert result.plan.edits
    assert result.after is None
    assert network[1].running_mean[2].isnan()


def test_a_healthy_model_is_left_bit_for_bit_as_it_was():
    network = network_with()
    before = pickle.dumps(network)
    result = torchmend.repair(network, donors=[network_with()])
    assert result.succeeded
    assert result.plan.is_empty
    assert pickle.dumps(network) == before


def test_a_model_can_be_copied_and_pickled_after_a_repair():
    network = network_with()
    network[1].running_mean[2] = NAN
    torchmend.repair(network)
    assert torchmend.diagnose(copy.deepcopy(network)).healthy
    assert torchmend.diagnose(pickle.loads(pickle.dumps(network))).healthy


def test_a_repair_is_done_once():
    network = network_with()
    network[1].running_mean[2] = NAN
    torchmend.repair(network)
    assert torchmend.repair(network).plan.is_empty


def test_what_cannot_be_repaired_is_refused_and_the_rest_is_repaired():
    network = network_with()
    network[1].running_mean[2] = NAN
    network[0].weight.data[0, 0, 0, 0] = NAN
    result = torchmend.repair(network)
    assert [refusal.place for refusal in result.plan.refused] == ["0.weight"]
    assert not result.succeeded
    assert network[1].running_mean.isfinite().all()


def test_a_wrapped_donor_serves_an_unwrapped_model():
    network, wrapper = network_with(), nn.Module()
    wrapper.module = network_with()
    network[0].weight.data[0, 0, 0, 0] = NAN
    assert torchmend.repair(network, donors=[wrapper]).succeeded


def test_a_donor_without_the_tensor_gives_way_to_the_next(tmp_path):
    network = network_with()
    network[0].weight.data[0, 0, 0, 0] = NAN
    path = checkpoints.save({"model": network_with().state_dict()}, tmp_path / "good.pth")
    result = torchmend.repair(network, donors=[nn.Linear(2, 2), path])
    assert result.succeeded
    assert str(path) in result.plan.edits[0].reason


def test_an_array_of_numpy_that_is_read_only_is_refused():
    array = torch.tensor([1.0, NAN]).numpy()
    array.flags.writeable = False
    (refusal,) = torchmend.repair({"weight": array}, donors=[{"weight": torch.ones(2)}]).plan.refused
    assert refusal.place == "weight"


def test_an_array_of_numpy_is_repaired_in_place():
    array = torch.tensor([1.0, NAN]).numpy()
    assert torchmend.repair({"weight": array}, donors=[{"weight": torch.ones(2)}]).succeeded
    assert array.tolist() == [1.0, 1.0]


def test_a_number_in_a_namespace_is_set_when_metadata_is_to_be_repaired():
    checkpoint = {"weight": torch.ones(2), "args": argparse.Namespace(best_loss=NAN, name="x")}
    torchmend.repair(checkpoint, metadata=True)
    assert checkpoint["args"].best_loss == INF


def test_a_repair_tells_the_metric_before_and_after():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    model[1].running_mean[2] = NAN
    result = torchmend.repair(model, evaluate=lambda: float(model(torch.ones(1, 4)).isfinite().float().mean()))
    assert (result.metric_before, result.metric_after) == (0.75, 1.0)


def test_a_dry_run_tells_the_metric_before_alone():
    model = nn.BatchNorm1d(2).eval()
    model.running_mean[0] = NAN
    result = torchmend.repair(model, dry_run=True, evaluate=lambda: 3)
    assert (result.metric_before, result.metric_after) == (3.0, None)
