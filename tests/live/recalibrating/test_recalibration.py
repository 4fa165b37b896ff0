"""`torchmend.recalibrate`: exact statistics in order of execution, bad batches left out, the rest as it was."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

import torchmend
from torchmend.facts.plans import Rung

NAN, INF = float("nan"), float("inf")


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.5)
    )


def images(count=8, size=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, 9, 9, generator=generator) * 2 + 1 for _ in range(count)]


def destroy(model):
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.fill_(NAN)
    return model


def population(parts):
    """Mean and unbiased variance of each channel, of all parts together, in float64."""
    whole = torch.cat([part.detach().double().transpose(0, 1).flatten(1) for part in parts], dim=1)
    return whole.mean(1), whole.var(1)


def outputs(layers, batches):
    with torch.no_grad():
        return [copy.deepcopy(layers).eval()(batch) for batch in batches]


def assert_statistics(layer, parts, **tolerance):
    tolerance = tolerance or {"rtol": 1e-6, "atol": 1e-7}
    mean, variance = population(parts)
    torch.testing.assert_close(layer.running_mean.double(), mean, **tolerance)
    torch.testing.assert_close(layer.running_var.double(), variance, **tolerance)


def bits(model):
    return {name: tensor.clone().view(torch.uint8) for name, tensor in model.state_dict().items() if tensor.dim()}


def assert_same_bits(model, before):
    after = bits(model)
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name


# What is measured


def test_from_nan_everywhere_each_layer_gets_the_population_of_its_input():
    model, batches = destroy(network()), images()
    torchmend.recalibrate(model, batches)
    assert_statistics(model[1], outputs(model[:1], batches))
    assert_statistics(model[4], outputs(model[:4], batches))


def test_batches_of_different_sizes_count_by_their_values():
    model, batches = destroy(network()), [*images(3), images(1, size=2)[0]]
    torchmend.recalibrate(model, batches)
    assert_statistics(model[1], outputs(model[:1], batches))


def test_a_layer_is_measured_with_everything_before_it_as_it_will_be_used():
    model, batches = destroy(network()), images(size=2)
    by_batch = copy.deepcopy(model).train()
    torchmend.recalibrate(model, batches)
    wrong, _ = population([by_batch[:4](batch) for batch in batches])
    right, _ = population(outputs(model[:4], batches))
    assert not torch.allclose(wrong, right, rtol=1e-3)
    torch.testing.assert_close(model[4].running_mean.double(), right, rtol=1e-6, atol=1e-7)


def test_the_order_is_that_of_execution_not_that_of_definition():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

        def forward(self, x):
            return self.last(self.first(x).relu())

    batches = [torch.randn(32, 3, generator=torch.Generator().manual_seed(seed)) * 5 + 2 for seed in range(4)]
    model = destroy(Backwards())
    result = torchmend.recalibrate(model, batches)
    assert result.layers == ("first", "last")
    assert_statistics(model.last, outputs(nn.Sequential(model.first, nn.ReLU()), batches))


def test_of_a_damaged_layer_only_the_damaged_elements_are_written():
    model, batches = network(), images()
    model[4].running_mean[2], model[4].running_var[3] = INF, -1.0
    before = copy.deepcopy(model)
    result = torchmend.recalibrate(model, batches)
    assert [(each.name, each.elements) for each in result.tensors] == [
        ("4.running_mean", (2,)),
        ("4.running_var", (3,)),
    ]
    mean, variance = population(outputs(model[:4], batches))
    torch.testing.assert_close(model[4].running_mean[2].double(), mean[2])
    torch.testing.assert_close(model[4].running_var[3].double(), variance[3])
    before[4].running_mean[2], before[4].running_var[3] = model[4].running_mean[2], model[4].running_var[3]
    assert_same_bits(model, bits(before))


def test_all_measures_healthy_layers_too():
    model, batches = network(), images()
    torchmend.recalibrate(model, batches, layers="all")
    assert_statistics(model[4], outputs(model[:4], batches))


@pytest.mark.parametrize("names", [["4"], "4", ("4",)])
def test_names_choose_layers(names):
    model = network()
    first = bits(model[:4])
    assert torchmend.recalibrate(model, images(), layers=names).layers == ("4",)
    assert_same_bits(model[:4], first)


def test_a_name_may_be_of_a_module_that_holds_layers():
    model = nn.Sequential(network(), nn.BatchNorm2d(5))
    assert torchmend.recalibrate(model, images(), layers=["0"]).layers == ("0.1", "0.4")


def test_nothing_is_read_when_nothing_is_damaged():
    result = torchmend.recalibrate(network(), iter(()), evaluate=lambda _: 0.25)
    assert (result.tensors, result.before, result.after) == ((), 0.25, 0.25)
    assert str(result.summary()).startswith("Nothing was re-estimated.")


def test_a_generator_is_enough_and_no_more_is_read_of_it_than_most_batches():
    given = iter(images(8))
    model = destroy(network())
    torchmend.recalibrate(model, given, most_batches=5)
    assert len(list(given)) == 3
    assert_statistics(model[1], outputs(model[:1], images(8)[:5]))


def test_large_offsets_lose_nothing():
    batches = [
        (torch.randn(64, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1e6).float()
        for seed in range(4)
    ]
    model = destroy(nn.Sequential(nn.BatchNorm1d(4)))
    torchmend.recalibrate(model, batches)
    assert_statistics(model[0], batches)
    assert abs(float(model[0].running_var.mean()) - 1) < 0.2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_wide(dtype):
    batches = [(batch + 30).to(dtype) for batch in images()]
    layer = destroy(nn.Sequential(nn.BatchNorm2d(3)))
    torchmend.recalibrate(layer, batches)
    assert_statistics(layer[0], batches)


def test_statistics_that_do_not_fit_the_layers_type_are_an_error_and_the_model_stays():
    model = destroy(nn.Sequential(nn.BatchNorm1d(2)).half())
    before = bits(model)
    with pytest.raises(torchmend.UserError, match=r"do not fit into torch.float16.*Keep them in float32"):
        torchmend.recalibrate(model, [torch.randn(64, 2).half() * 1000 for _ in range(3)])
    assert_same_bits(model, before)


# Kinds of layers


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.BatchNorm1d(3), (8, 3, 5)), (nn.BatchNorm3d(3), (4, 3, 2, 3, 4)), (nn.SyncBatchNorm(3), (8, 3, 4, 4))],
    ids=lambda each: type(each).__name__,
)
def test_every_batch_norm_is_measured(layer, shape):
    batches = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    model = destroy(nn.Sequential(layer))
    torchmend.recalibrate(model, batches)
    assert_statistics(model[0], batches)


def test_an_instance_norm_gets_the_average_over_instances_as_in_training():
    layer = nn.InstanceNorm2d(3, track_running_stats=True, momentum=None)
    batches = [batch + torch.arange(16.0)[:, None, None, None] for batch in images(4)]
    trained = nn.InstanceNorm2d(3, track_running_stats=True, momentum=1.0)
    trained(torch.cat(batches))
    model = destroy(nn.Sequential(layer))
    torchmend.recalibrate(model, batches)
    torch.testing.assert_close(layer.running_mean, trained.running_mean)
    torch.testing.assert_close(layer.running_var, trained.running_var)


def test_an_instance_norm_takes_single_instances():
    model = destroy(nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True)))
    torchmend.recalibrate(model, [batch[0] for batch in images(4)])
    assert torchmend.diagnose(model).healthy


def test_lazy_layers_take_their_shapes_first():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d())
    batches = images()
    torchmend.recalibrate(model, iter(batches), layers="all")
    assert_statistics(model[1], outputs(model[:1], batches))


class Foreign(nn.Module):
    """Names its statistics as torch does, and shares no class with it."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, *, x):
        return (x - self.running_mean[:, None, None]) / self.running_var[:, None, None].sqrt()


class Called(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x=x)


def test_a_foreign_layer_is_measured_and_normalises_by_the_batch_meanwhile():
    model = destroy(nn.Sequential(Called(Foreign(3)), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    batches = images()
    torchmend.recalibrate(model, batches)
    assert_statistics(model[0].layer, batches)
    assert_statistics(model[2], outputs(model[:2], batches))


def test_a_layer_with_channels_elsewhere_is_named():
    model = destroy(nn.Sequential(Called(Foreign(9))))
    with pytest.raises(
        torchmend.UserError, match=r"0.layer \(Foreign\) keeps statistics of 9 channels.*\[16, 3, 9, 9\]"
    ):
        torchmend.recalibrate(model, images())


class Twice(nn.Module):
    """Calls one layer on what it made of the input, too."""

    def __init__(self):
        super().__init__()
        self.norm, self.mix = nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x):
        return self.norm(self.mix(self.norm(x)))


def test_a_layer_called_twice_gets_the_values_of_both_calls():
    torch.manual_seed(0)
    model = destroy(Twice())
    batches = [torch.randn(64, 4) * 3 + 1 for _ in range(6)]
    torchmend.recalibrate(model, batches)
    fresh = nn.BatchNorm1d(4)
    assert_statistics(model.norm, [*batches, *(model.mix(fresh(batch)) for batch in batches)])


def test_a_layer_that_two_modules_share_is_measured_once():
    norm = nn.BatchNorm2d(3)
    model = destroy(nn.Sequential(norm, nn.Conv2d(3, 3, 1), norm))
    assert [each.name for each in torchmend.recalibrate(model, images()).tensors] == [
        "0.running_mean",
        "0.running_var",
    ]
    assert torchmend.diagnose(model).healthy


def test_a_layer_that_the_forward_pass_does_not_call_is_told_and_stays():
    model = destroy(network())
    model.aside = nn.ModuleList([nn.BatchNorm1d(2)])
    model.forward = model[:6].forward
    model.aside[0].running_var.fill_(NAN)
    result = torchmend.recalibrate(model, images())
    assert result.uncalled == ("aside.0",)
    assert model.aside[0].running_var.isnan().all()
    assert "not called by the forward pass, and left as it was: aside.0" in result.summary()


def test_a_compiled_model_is_run_as_it_was_written():
    model, batches = destroy(network()), images()
    torchmend.recalibrate(torch.compile(model, backend="eager"), batches)
    assert_statistics(model[4], outputs(model[:4], batches))


def test_a_module_compiled_in_place_is_hooked_too():
    model, batches = destroy(network()), images()
    model.compile(backend="eager")
    torchmend.recalibrate(model, batches)
    assert_statistics(model[1], outputs(model[:1], batches))


# Batches


def two_inputs(kind):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x, y):
            return self.norm(x + y)

    pairs = list(zip(images(seed=1), images(seed=2), strict=True))
    shapes = {
        "a tuple first": [((x, y), torch.zeros(16)) for x, y in pairs],
        "a dictionary first": [({"x": x, "y": y}, torch.zeros(16)) for x, y in pairs],
        "a dictionary": [{"x": x, "y": y} for x, y in pairs],
    }
    return destroy(Sum()), shapes[kind], [x + y for x, y in pairs]


@pytest.mark.parametrize("kind", ["a tuple first", "a dictionary first", "a dictionary"])
def test_several_inputs_are_passed_as_arguments_or_keywords(kind):
    model, batches, sums = two_inputs(kind)
    torchmend.recalibrate(model, batches)
    assert_statistics(model.norm, sums)


@pytest.mark.parametrize("kind", [tuple, list])
def test_the_first_element_of_a_batch_is_the_input(kind):
    model = destroy(network())
    torchmend.recalibrate(model, [kind((batch, torch.zeros(16))) for batch in images()])
    assert_statistics(model[1], outputs(model[:1], images()))


def test_a_forward_function_is_used_instead():
    model = destroy(network())
    batches = [{"image": batch} for batch in images()]
    torchmend.recalibrate(model, batches, forward=lambda model, batch: model(batch["image"]))
    assert_statistics(model[1], outputs(model[:1], images()))


def poisoned(kind):
    batches = images(9)
    if kind == "not finite":
        batches[3][5, 1, 2, 2] = INF
    elif kind == "not normalised":
        batches[3] = (batches[3] + 1) * 127
    elif kind == "one huge image":
        batches[3][5] *= 1e4
    elif kind == "shifted":
        batches[3] = batches[3] + 20
    else:
        batches[3] = torch.zeros_like(batches[3])
    return batches


@pytest.mark.parametrize("kind", ["not finite", "not normalised", "one huge image", "shifted", "all zero"])
def test_a_poisoned_batch_is_left_out_and_named(kind):
    model, batches = destroy(network()), poisoned(kind)
    result = torchmend.recalibrate(model, batches)
    good = [batch for at, batch in enumerate(batches) if at != 3]
    assert result.left_out == (3,)
    assert_statistics(model[1], outputs(model[:1], good))
    assert "batch 3 left out at 1" in result.summary()


def test_ordinary_batches_all_count():
    for seed in range(20):
        result = torchmend.recalibrate(destroy(network()), images(32, size=4, seed=seed))
        assert result.left_out == ()


def test_a_channel_that_is_silent_in_most_batches_keeps_those_in_which_it_speaks():
    batches = images(16)
    for at, batch in enumerate(batches):
        batch[:, 1] = batch[:, 1] if at == 4 else 0.0
    model = destroy(nn.Sequential(nn.BatchNorm2d(3)))
    assert torchmend.recalibrate(model, batches).left_out == ()
    assert_statistics(model[0], batches)


def test_a_damaged_weight_is_named_where_no_batch_is_finite():
    model = destroy(network())
    model[3].weight.data[0] = NAN
    before = bits(model)
    with pytest.raises(torchmend.UserError, match=r"0 can be used at 4.*3.weight is damaged itself: repair it first"):
        torchmend.recalibrate(model, images())
    assert_same_bits(model, before)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (images(1), "Of 1 batches 1 can be used at 1, with 784 values a channel; it takes 2 batches and 16 values"),
        ([], "There are no batches"),
        ([torch.full((4, 3, 9, 9), NAN)] * 3, "those of batches 0, 1, 2 are not finite"),
    ],
)
def test_too_few_good_batches_are_an_error_and_the_model_stays(batches, message):
    model = destroy(network())
    before = bits(model)
    with pytest.raises(torchmend.UserError, match=message):
        torchmend.recalibrate(model, batches)
    assert_same_bits(model, before)


def test_too_few_values_are_an_error():
    model = destroy(nn.Sequential(nn.BatchNorm1d(3)))
    with pytest.raises(torchmend.UserError, match="with 12 values a channel; it takes 2 batches and 16 values"):
        torchmend.recalibrate(model, [torch.randn(4, 3) for _ in range(3)])


@pytest.mark.parametrize("given", [torch.zeros(4, 3), {"x": 1}, 3, "batches"])
def test_what_is_no_iterable_of_batches_is_refused(given):
    with pytest.raises(TypeError, match="Pass a DataLoader, or a list of batches"):
        torchmend.recalibrate(destroy(network()), given)


def test_an_unknown_layer_is_told_with_those_near_it():
    with pytest.raises(torchmend.UserError, match=r"no layer '0' that keeps running statistics; it has 2, such as"):
        torchmend.recalibrate(network(), images(), layers=["0"])


def test_a_dictionary_is_no_model():
    with pytest.raises(TypeError, match=r"Pass a torch\.nn\.Module"):
        torchmend.recalibrate({}, images())


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
def test_a_scripted_model_is_refused():
    with pytest.raises(torchmend.UserError, match="Recalibrate the module that it was made from"):
        torchmend.recalibrate(torch.jit.trace(network().eval(), images(1)[0]), images())


# Noise


def test_noise_is_the_same_each_time_and_leaves_torchs_generator_alone():
    state = torch.get_rng_state()
    made = torchmend.noise((4, 3), batches=3, mean=2.0, std=0.5, seed=7)
    assert [torch.equal(one, other) for one, other in zip(made, made, strict=True)] == [True] * len(made) == [True] * 3
    assert torch.equal(state, torch.get_rng_state())


def test_noise_has_the_scale_that_was_asked_for():
    values = torch.cat(list(torchmend.noise((1000, 3), batches=4, mean=2.0, std=0.5)))
    assert abs(float(values.mean()) - 2) < 0.02
    assert abs(float(values.std()) - 0.5) < 0.01


def test_smooth_noise_keeps_its_scale_and_its_neighbours_are_alike():
    values = torch.cat(list(torchmend.noise((8, 3, 32, 32), mean=2.0, std=0.5, smooth=1.0)))
    assert abs(float(values.mean()) - 2.0) < 0.02
    assert abs(float(values.std()) - 0.5) < 0.02
    beside = torch.corrcoef(torch.stack([values[..., 1:].flatten(), values[..., :-1].flatten()]))[0, 1]
    assert abs(float(beside) - 2.718281828 ** (-1 / 4)) < 0.02  # of two Gaussians of width 1, shifted by 1


def test_noise_that_falls_off_keeps_its_scale_and_its_spectrum_falls_by_that_power():
    values = torch.cat(list(torchmend.noise((64, 3, 32, 32), mean=2.0, std=0.5, falloff=1.0)))
    assert abs(float(values.mean()) - 2.0) < 0.02
    assert abs(float(values.square().mean() - 4) - 0.25) < 0.05
    amplitude = torch.fft.fft2(values - 2).abs().square().mean((0, 1)).sqrt()
    assert abs(float(amplitude[0, 2] / amplitude[0, 8]) - 4) < 0.2
    assert abs(float(amplitude[6, 0] / amplitude[0, 6]) - 1) < 0.05


def test_noise_without_positions_has_nothing_to_fall_off_along():
    plain, falling = torchmend.noise((8, 5)), torchmend.noise((8, 5), falloff=1.0)
    assert all(torch.equal(one, other) for one, other in zip(plain, falling, strict=True))


def test_on_noise_a_layer_is_brought_to_the_scale_of_its_surviving_channels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12))
    torchmend.recalibrate(model, images(), layers="all")  # of mean 1 and deviation 2
    mean, variance = model[1].running_mean.clone(), model[1].running_var.clone()
    for buffer in (model[1].running_mean, model[1].running_var):
        buffer[::3] = NAN
    torchmend.recalibrate(model, torchmend.noise((16, 3, 9, 9)))  # of mean 0 and deviation 1
    torch.testing.assert_close(model[1].running_var, variance, rtol=0.1, atol=0)
    kept = [at for at in range(12) if at % 3]
    assert torch.equal(model[1].running_var[kept], variance[kept])
    off = (model[1].running_mean - mean).square().mean().sqrt() / variance.mean().sqrt()
    unmatched = (model[0].bias.detach() - mean)[::3].square().mean().sqrt() / variance.mean().sqrt()
    assert off < unmatched / 2


def test_noise_of_too_few_values_to_normalise_by_is_an_error_and_the_model_stays():
    model = destroy(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    before = bits(model)
    with pytest.raises(torchmend.UserError, match="4 values a channel from a batch of noise"):
        torchmend.recalibrate(model, torchmend.noise((4, 3), batches=16))
    assert_same_bits(model, before)


def test_on_noise_of_another_scale_what_healthy_layers_give_stays_as_it_is_on_data():
    model, data = network(), images()
    torchmend.recalibrate(model, data, layers="all")
    right, first = model[4].running_var.clone(), bits(model[1])
    model[4].running_var.fill_(NAN)
    torchmend.recalibrate(model, torchmend.noise((16, 3, 9, 9), batches=8, mean=-5.0, std=30.0))
    torch.testing.assert_close(model[4].running_var, right, rtol=0.1, atol=0)
    assert_same_bits(model[1], first)


@pytest.mark.parametrize(
    ("batches", "rung"), [(images(), Rung.DATA), (torchmend.noise((16, 3, 9, 9)), Rung.NOISE)], ids=["data", "noise"]
)
def test_each_tensor_tells_the_rung_it_stands_on(batches, rung):
    result = torchmend.recalibrate(destroy(network()), batches)
    assert {each.rung for each in result.tensors} == {rung}
    assert f"2 layers {rung.value}" in repr(result)


@pytest.mark.parametrize(
    "options",
    [
        {"shape": ()},
        {"shape": (4, 0)},
        {"batches": 1},
        {"std": 0.0},
        {"smooth": -1.0},
        {"falloff": 5.0},
        {"mean": INF},
        {"std": NAN},
    ],
)
def test_noise_without_meaning_is_refused(options):
    with pytest.raises(torchmend.UserError):
        torchmend.noise(**{"shape": (4, 3), **options})


# The metric


def test_the_metric_is_taken_before_and_after_in_evaluation_mode():
    model, batches = destroy(network()), images()
    modes = []

    def evaluate(model):
        modes.append(model.training)
        return model(batches[0]).square().mean()

    result = torchmend.recalibrate(model, batches, evaluate=evaluate)
    assert modes == [False, False]
    assert np.isnan(result.before)
    assert 0 < result.after < 10
    assert "metric nan -> " in result.summary()


# What stays


def state_of(model):
    return {
        "modes": [module.training for module in model.modules()],
        "momenta": [module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)],
        "counts": [int(each) for name, each in model.named_buffers() if name.endswith("tracked")],
        "grads": [each.requires_grad for each in model.parameters()],
        "hooks": [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()],
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),
        "python": random.getstate(),
        "weights": [each.detach().clone().flatten().tolist() for each in model.parameters()],
    }


class Drawing(nn.Sequential):
    """Draws from every generator in its forward pass, and keeps a buffer that changes."""

    def __init__(self, *layers):
        super().__init__(*layers)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen = self.seen + 1
        return super().forward(x + 0 * torch.randn(1) + 0 * random.random() + 0 * np.random.rand())


def drawing():
    model = Drawing(*destroy(network()))
    model[3].eval()
    model[0].weight.requires_grad_(False)
    return model


def test_modes_hooks_counts_generators_and_other_buffers_stay_as_they_were():
    model = drawing()
    before, seen = state_of(model), model.seen
    torchmend.recalibrate(model, images())
    assert state_of(model) == before
    assert model.seen is seen
    assert float(seen) == 0


class PlannedError(Exception):
    pass


@pytest.mark.parametrize("error", [PlannedError, KeyboardInterrupt])
@pytest.mark.parametrize("when", [0, 3, 12, 16])
def test_after_an_exception_anywhere_the_model_is_as_it_was_bit_for_bit(error, when):
    model, calls = drawing(), []
    before, held = state_of(model), bits(model)

    def forward(model, batch):
        calls.append(1)
        if len(calls) > when:
            raise error
        return model(batch)

    with pytest.raises(error):
        torchmend.recalibrate(model, images(), forward=forward, evaluate=lambda _: 0.0)
    assert state_of(model) == before
    assert_same_bits(model, held)


def test_after_an_exception_of_evaluate_the_model_is_as_it_was():
    model, results = drawing(), iter([0.0])
    held = bits(model)
    with pytest.raises(StopIteration):
        torchmend.recalibrate(model, images(), evaluate=lambda _: next(results))
    assert_same_bits(model, held)
