"""The gap between running and batch statistics: right to the last digits, told where it lasts, silent elsewhere."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from live.guard.sensing.loops import Noisy, hooks_of, run
from live.guard.test_cost import Reads
from live.guard.training import kept, same
from torchmend.facts.codes import Code, Severity
from torchmend.live.guard.sensing.calibration import LEAST_WARM_UP, MOST_WARM_UP, Calibration

LATE = MOST_WARM_UP


def drawn(*shape, seed=0, scale=1.0, shift=0.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale + shift


def layer(kind=nn.BatchNorm1d, channels=5, dtype=torch.float32, **options):
    """Make a layer whose running statistics are somewhere."""
    made = kind(channels, track_running_stats=True, **options).to(dtype)
    made.running_mean.copy_(drawn(channels, seed=1))
    made.running_var.copy_(drawn(channels, seed=2).exp())
    return made


def expected(module, values):
    """Return both gaps in float64, by definition; variances are unbiased, as the layer's own are."""
    values = values.double().numpy()
    mean, variance = module.running_mean.double().numpy(), module.running_var.double().numpy()
    if isinstance(module, nn.InstanceNorm1d):
        of_batch = values.mean((0, 2)), values.var(2, ddof=1).mean(0)
    else:
        rows = np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])
        of_batch = rows.mean(0), rows.var(0, ddof=1)
    spread = variance + module.eps
    gaps = (of_batch[0] - mean) / np.sqrt(spread), np.log2((of_batch[1] + module.eps) / spread)
    return [math.sqrt((gap**2).mean()) for gap in gaps]


def gaps_of(module, *batches, sensor=None, step=LATE):
    sensor = sensor or Calibration([module])
    sensor.open(step)
    for values in batches:
        module(values)
    figures = sensor.close()
    return None if figures is None else (figures[1:] / math.sqrt(module.num_features)).tolist()


CASES = {
    "rows": (layer(), drawn(32, 5, scale=3.0)),
    "pictures": (layer(nn.BatchNorm2d), drawn(8, 5, 4, 4, shift=2.0)),
    "volumes": (layer(nn.BatchNorm3d), drawn(4, 5, 3, 3, 3)),
    "small momentum": (layer(momentum=1e-3), drawn(32, 5, scale=2.0)),
    "cumulative": (layer(momentum=None), drawn(32, 5, scale=2.0)),
    "all momentum": (layer(momentum=1.0), drawn(32, 5)),
    "double": (layer(dtype=torch.float64), drawn(32, 5).double()),
    "no affine weights": (layer(affine=False), drawn(32, 5)),
    "instances": (layer(nn.InstanceNorm1d), drawn(16, 5, 20, scale=2.0)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_gaps_are_those_of_their_definition(case):
    module, values = copy.deepcopy(CASES[case])
    wanted = expected(module, values)
    assert gaps_of(module, values) == pytest.approx(wanted, rel=2e-3)


@pytest.mark.parametrize(
    ("module", "values"),
    [
        (layer(momentum=0.0), drawn(400, 5, scale=2.0)),
        (layer(nn.BatchNorm2d, momentum=0.0), drawn(16, 5, 5, 5, scale=2.0)),
        (layer(dtype=torch.float16), drawn(400, 5, scale=2.0).half()),
        (layer(nn.InstanceNorm1d, momentum=None), drawn(16, 5, 400)),
    ],
    ids=["momentum of 0", "pictures", "half precision", "instances that never update"],
)
def test_where_no_update_tells_them_they_are_of_the_input(module, values):
    wanted = expected(module, values)
    assert gaps_of(module, values) == pytest.approx(wanted, rel=5e-3)


def test_batches_of_one_step_count_together():
    module = layer()
    one, two = drawn(32, 5, seed=3, shift=1.0), drawn(32, 5, seed=4, shift=-1.0)
    before = module.running_mean.clone(), module.running_var.clone()
    found = gaps_of(module, one, two)
    mean = (one.mean(0) + two.mean(0)) / 2
    wanted = ((mean - before[0]) / (before[1] + module.eps).sqrt()).square().mean().sqrt()
    assert found[0] == pytest.approx(float(wanted), rel=1e-3)


def test_a_checkpointed_layer_is_seen_as_it_was_before_the_first_of_its_runs():
    plain, twice = layer(), layer()
    values = drawn(32, 5).requires_grad_()
    wanted = gaps_of(plain, values)
    sensor = Calibration([twice])
    sensor.open(LATE)
    checkpoint(twice, values, use_reentrant=False).sum().backward()
    assert (sensor.close()[1:] / math.sqrt(5)).tolist() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(
    ("module", "values"),
    [
        (layer(), drawn(15, 5)),
        (layer(nn.BatchNorm2d).eval(), drawn(8, 5, 4, 4)),
        (layer(nn.InstanceNorm1d), drawn(15, 5, 40)),
        (layer(nn.InstanceNorm1d), drawn(5, 40)),
        (nn.BatchNorm1d(5, track_running_stats=False), drawn(32, 5)),
        (nn.LayerNorm(5), drawn(32, 5)),
    ],
    ids=["few rows", "evaluation", "few instances", "a single instance", "no statistics", "another norm"],
)
def test_layers_that_say_nothing_are_passed_over(module, values):
    sensor = Calibration([module])
    sensor.open(LATE)
    module(values)
    assert sensor.close() is None


def test_sixteen_values_a_channel_are_enough():
    assert gaps_of(layer(), drawn(16, 5)) is not None
    assert gaps_of(layer(nn.BatchNorm2d), drawn(1, 5, 4, 4)) is not None


def test_a_lazy_layer_is_seen_when_it_knows_its_channels():
    module = nn.LazyBatchNorm1d()
    assert gaps_of(module, drawn(32, 5, shift=3.0))[0] == pytest.approx(3.0, rel=0.2)


@pytest.mark.parametrize(
    ("momentum", "first"),
    [(0.5, LEAST_WARM_UP), (0.1, 50), (0.05, 100), (0.01, MOST_WARM_UP), (0.001, 50), (0.0, 50), (None, 50)],
)
def test_the_warm_up_is_as_long_as_statistics_remember_unless_that_is_too_long(momentum, first):
    module = layer(momentum=momentum)
    assert gaps_of(module, drawn(32, 5), step=first - 1) is None
    assert gaps_of(module, drawn(32, 5), step=first) is not None


# Judging


def tell(sensor, mean=0.0, variance=0.0):
    """Take a sample of a layer with four channels, and hand back other figures for it."""
    sensor.open(LATE)
    sensor.module(drawn(32, 4))
    number, *_ = sensor.close().tolist()
    return list(sensor.judge([number, 2 * mean, 2 * variance]))


def sensing(module):
    made = Calibration([module])
    made.module = module
    return made


@pytest.fixture
def sensor():
    return sensing(layer(channels=4))


@pytest.mark.parametrize(("mean", "variance", "speaks"), [(1.1, 0, True), (0, 2.6, True), (0.9, 2.4, False)])
def test_a_gap_of_either_kind_in_three_samples_is_told(sensor, mean, variance, speaks):
    assert tell(sensor, mean, variance) == tell(sensor, mean, variance) == []
    found = tell(sensor, mean, variance)
    assert bool(found) is speaks
    if speaks:
        assert (found[0].code, found[0].severity) == (Code.STATISTICS_UNCALIBRATED, Severity.WARNING)
        assert found[0].detail.startswith("BatchNorm1d: in 3 samples in a row")


def test_one_good_sample_in_between_begins_anew(sensor):
    assert [bool(tell(sensor, mean)) for mean in (2, 2, 0.9, 2, 2, 2)] == [False] * 5 + [True]


def test_a_layer_is_told_again_only_after_it_was_well(sensor):
    spoke = [bool(tell(sensor, mean)) for mean in (2, 2, 2, 2, 0.9, 2, 2, 2, 0.4, 2, 2, 2)]
    assert [at for at, each in enumerate(spoke) if each] == [2, 11]


def test_nan_neither_counts_nor_begins_anew(sensor):
    assert [bool(tell(sensor, mean)) for mean in (2, 2, math.nan, 2)] == [False, False, False, True]


def test_a_variance_that_grew_without_bounds_is_told(sensor):
    assert [bool(tell(sensor, 0, math.inf)) for _ in range(3)] == [False, False, True]


def test_another_look_is_worth_while_until_it_is_told_or_well(sensor):
    seen = []
    for mean in (0, 2, 0, 2, 2, 2):
        tell(sensor, mean)
        seen.append(sensor.suspects)
    assert seen == [False, True, False, True, True, False]


def test_a_layer_that_is_seen_no_more_is_worth_no_other_look():
    model = nn.ModuleList([layer(momentum=0.0), layer(momentum=0.0)])
    sensor = Calibration([model])
    seen = []
    for at, shift in ((0, 50.0), (1, 0.0)):
        sensor.open(LATE)
        model[at](drawn(32, 5, shift=shift) if at == 0 else layer().running_mean + drawn(32, 5, scale=1.5))
        list(sensor.judge(sensor.close().tolist()))
        seen.append(sensor.suspects)
    assert seen == [True, False]


def test_figures_may_be_read_after_the_next_sample_or_never():
    near, far = layer(momentum=0.0), layer(momentum=0.0)
    sensor = Calibration([nn.ModuleList([near, far])])
    figures = []
    for module, shift in ((far, 50.0), (near, 0.0), (far, 50.0), (far, 50.0), (far, 50.0)):
        sensor.open(LATE)
        module(drawn(32, 5, shift=shift))
        figures.append(sensor.close().tolist())
    told = [list(sensor.judge(figures[at])) for at in (0, 1, 3, 4)]
    assert [[each.detail.partition(":")[0] for each in found] for found in told] == [[], [], [], ["1"]]


def test_several_layers_make_one_finding():
    model = nn.Sequential(layer(momentum=0.0), layer(momentum=0.0))
    sensor = Calibration([model])
    for _ in range(3):
        sensor.open(LATE)
        for each in model:
            each(drawn(32, 5, shift=50.0))
        found = list(sensor.judge(sensor.close().tolist()))
    assert [each.detail.partition(":")[0] for each in found] == ["0 (and 1 more layer)"]


def test_what_was_seen_is_remembered_over_a_restart(sensor):
    tell(sensor, 2)
    tell(sensor, 2)
    again = sensing(sensor.module)
    again.load_state_dict(sensor.state_dict())
    assert tell(again, 2) != []
    once_more = sensing(sensor.module)
    once_more.load_state_dict(again.state_dict())
    assert tell(once_more, 2) == []


# Trainings


def network(momentum=0.1):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8, momentum=momentum),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, bias=False),
        nn.BatchNorm2d(16, momentum=momentum),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 16),
        nn.BatchNorm1d(16, momentum=momentum),
        nn.ReLU(),
        nn.Linear(16, 10),
    )


def trained(*, rate=0.01, size=16, momentum=0.1, seed=0, hurt=None, first=0, steps=200, every=10):
    """Train, and return the steps and layers of the findings."""
    torch.manual_seed(seed)
    model = network(momentum)
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    sensor, found = Calibration([model]), []
    for step in range(first, first + steps):
        labels = torch.randint(0, 10, (size,))
        images = torch.randn(size, 3, 10, 10) + (labels.float()[:, None, None, None] - 4.5) / 3
        if hurt is not None:
            hurt(step, model, images)
        if step % every == 0:
            sensor.open(step)
        loss = functional.cross_entropy(model(images), labels)
        if step % every == 0 and (figures := sensor.close()) is not None:
            found += [(step, each.detail.split(":")[0]) for each in sensor.judge(figures.tolist())]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return found


@pytest.mark.parametrize("rate", [0.001, 0.1, 1.0])
@pytest.mark.parametrize("size", [16, 64])
def test_ordinary_training_says_nothing(rate, size):
    for seed in range(2):
        assert trained(rate=rate, size=size, seed=seed, steps=120) == []


def test_ordinary_training_says_nothing_when_every_step_is_sampled():
    assert trained(rate=0.3, every=1) == []


def test_one_finite_outlier_is_told_while_the_variance_remembers_it():
    def hurt(step, _, images):
        if step == 100:
            images[0, 0, 2, 2] = 1e4

    assert trained(hurt=hurt) == [(120, "1")]


def test_a_momentum_that_never_gets_there_is_told():
    assert trained(momentum=0.001, steps=100) == [(70, "9")]


def test_a_momentum_that_takes_its_time_is_not():
    assert trained(momentum=0.01, steps=600) == []


def test_statistics_of_another_domain_are_told():
    def hurt(step, model, _):
        if step == 60:
            model[1].running_mean.fill_(60.0)
            model[1].running_var.fill_(1800.0)

    found = trained(momentum=0.02, hurt=hurt, first=60, steps=300)
    assert found == [(270, "1")]


# What it leaves alone


def test_hooks_are_there_in_sampled_steps_only():
    model = network()
    sensor = Calibration([model])
    sensor.open(0)
    assert hooks_of(model) == 0
    sensor.open(LATE)
    sensor.open(LATE)
    assert hooks_of(model) == 6
    sensor.close()
    assert hooks_of(model) == 0


def test_after_an_exception_hooks_are_neither_doubled_nor_left():
    model = network()
    sensor = Calibration([model])
    sensor.open(LATE)
    with pytest.raises(RuntimeError):
        model(drawn(16, 5, 10, 10))
    with pytest.raises(ValueError, match="more than 1 value"):
        model(drawn(1, 3, 3, 3))
    sensor.open(LATE)
    assert hooks_of(model) == 6
    assert sensor.close() is None
    assert hooks_of(model) == 0


def test_nothing_is_read_from_the_device(monkeypatch):
    model = nn.Sequential(layer(), layer(momentum=None), layer(momentum=0.0))
    sensor = Calibration([model])
    with Reads(monkeypatch) as reads:
        model(drawn(32, 5))
        by_torch = reads.count  # a cumulative mean's own
        sensor.open(LATE)
        model(drawn(32, 5))
        sensor.close()
    assert reads.count == 2 * by_torch


def test_training_is_the_same_to_the_last_bit():
    states = []
    for looks in (False, True):
        torch.manual_seed(0)
        model = Noisy()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        sensor = Calibration([model])

        def around(_, what, looks=looks, sensor=sensor):
            if looks and what in ("forward", "step"):
                sensor.open(LATE) if what == "forward" else sensor.close()

        run(model, optimizer, around)
        states.append([*kept(model, optimizer), torch.get_rng_state()])
    assert same(*states)


def test_layers_inside_a_compiled_wrapper_are_not_hooked():
    model = network()
    sensor = Calibration([torch.compile(model, backend="eager")])
    sensor.open(LATE)
    assert hooks_of(model) == 0
