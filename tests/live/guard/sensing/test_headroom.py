"""Headroom in float16: told before the overflow, and not where there is none to fear."""

import copy
import math
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.utils.checkpoint import checkpoint

from live.guard.sensing.loops import Noisy, hooks_of, run
from live.guard.test_cost import Reads
from live.guard.training import kept, same
from torchmend import Guard
from torchmend.facts.codes import Code, Severity
from torchmend.live.guard.sensing.headroom import Headroom

INF = math.inf
Pair = namedtuple("Pair", "first second")


class Says(nn.Module):
    """Puts out what it was made with."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, *_):
        return self.output


def half(*values):
    return torch.tensor(values, dtype=torch.float16)


def figures_of(sensor, call):
    sensor.open()
    call()
    figures = sensor.close()
    return [] if figures is None else figures.tolist()


def details(sensor, call):
    figures = figures_of(sensor, call)
    return [finding.detail for finding in sensor.judge(figures)] if figures else []


def told(output):
    model = Says(output)
    return details(Headroom([model]), model)


class Loud(nn.Module):
    """Two linear layers, the second of which multiplies by a gain."""

    def __init__(self, gain):
        super().__init__()
        self.quiet, self.loud = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        with torch.no_grad():
            self.quiet.weight.copy_(torch.eye(4))
            self.loud.weight.copy_(gain * torch.eye(4))

    def forward(self, values):
        with torch.autocast("cpu", torch.float16):
            return self.loud(self.quiet(values))


def test_a_layer_with_less_than_three_bits_is_named_with_its_bits_and_its_largest_value():
    model = Loud(20000.0)
    sensor = Headroom([model])
    (finding,) = sensor.judge(figures_of(sensor, lambda: model(torch.ones(2, 4))))
    assert (finding.code, finding.severity) == (Code.HEADROOM_LOW, Severity.WARNING)
    assert finding.detail == (
        "loud: 1.7 bits of headroom in float16, the largest value is 20000 of 65504; "
        "run this module in float32 (torchmend.stabilise) or bfloat16"
    )


@pytest.mark.parametrize(("largest", "speaks"), [(8184.0, False), (8192.0, True), (-8192.0, True), (0.0, False)])
def test_three_bits_are_enough(largest, speaks):
    assert bool(told(half(1.0, largest))) is speaks


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_other_types_have_room(dtype):
    assert told(torch.tensor([60000.0], dtype=dtype)) == []


def test_an_infinite_output_is_an_overflow():
    (detail,) = told(half(1.0, INF))
    assert "overflow in float16, the largest value is inf" in detail


def test_minus_infinity_may_be_a_mask():
    assert told(half(1.0, -INF)) == []
    assert told(half(20000.0, -INF)) != []


def test_a_linear_layer_does_not_mask():
    model = Loud(-70000.0)
    (detail,) = details(Headroom([model]), lambda: model(torch.ones(2, 4)))
    assert detail.startswith("loud: overflow")


def test_nan_is_left_to_others():
    assert told(half(math.nan, 60000.0)) == []


@pytest.mark.parametrize(
    "output",
    [
        (half(1.0), half(30000.0)),
        [half(30000.0), None, "text"],
        {"logits": half(1.0), "more": {"hidden": (half(30000.0),)}},
        Pair(torch.ones(1), half(30000.0)),
    ],
    ids=["tuple", "list", "dict", "named tuple"],
)
def test_nested_outputs_are_looked_into(output):
    (detail,) = told(output)
    assert "the largest value is 30000 " in detail


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
def test_the_larger_part_of_a_complex_number_counts():
    assert told(torch.complex(torch.zeros(1), torch.full((1,), -30000.0)).to(torch.complex32)) != []


def test_empty_outputs_have_no_largest_value():
    assert told(torch.zeros(0, dtype=torch.float16)) == []


@pytest.mark.parametrize("seed", range(5))
def test_the_figure_is_the_largest_magnitude(seed):
    generator = torch.Generator().manual_seed(seed)
    values = (torch.randn(3, 5, 7, generator=generator) * 5000).half()[:, ::2].transpose(0, 2)
    model = Says(values)
    sensor = Headroom([model])
    _, low, high = figures_of(sensor, model)
    assert max(-low, high) == np.abs(values.numpy()).max()


def test_a_module_is_told_once_and_again_when_it_lost_another_bit():
    model = Says(None)
    sensor = Headroom([model])
    spoke = []
    for largest in (8000.0, 10000.0, 10000.0, 9000.0, 19000.0, 20000.0, 60000.0, INF, INF):
        model.output = half(largest)
        spoke.append(bool(details(sensor, model)))
    assert spoke == [False, True, False, False, False, True, True, True, False]


def test_the_first_in_order_of_execution_is_named_and_the_others_are_counted():
    model = nn.ModuleDict({"last": Says(half(9000.0)), "first": Says(half(30000.0)), "middle": Says(half(1.0))})
    (detail,) = details(Headroom([model]), lambda: [model[name]() for name in ("middle", "first", "last")])
    assert detail.startswith("first (and 1 more module): 1.1 bits")


def test_a_container_that_hands_on_its_child_s_output_is_not_counted():
    model = nn.Sequential(nn.Sequential(Says(half(30000.0))))
    (detail,) = details(Headroom([model]), lambda: model(None))
    assert detail.startswith("0.0: ")


def test_a_module_that_changes_the_output_in_place_is_looked_at():
    class Doubles(nn.Module):
        def forward(self, values):
            return values.mul_(2)

    model = nn.Sequential(Says(half(5000.0)), Doubles())
    (detail,) = details(Headroom([model]), lambda: model(None))
    assert detail.startswith("1: ")
    assert "10000" in detail


def test_of_two_runs_the_larger_counts():
    model = Says(None)
    sensor = Headroom([model])

    def twice():
        for largest in (-30000.0, 9000.0):
            model.output = half(largest)
            model()

    (detail,) = details(sensor, twice)
    assert "30000" in detail


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers_are_seen_once(reentrant):
    model = Loud(20000.0)
    sensor = Headroom([model])

    def step():
        values = torch.ones(2, 4, requires_grad=True)
        checkpoint(model, values, use_reentrant=reentrant).float().sum().backward()

    (detail,) = details(sensor, step)
    assert detail.startswith("loud: ")


def test_the_drift_of_a_feed_forward_layer_is_told_before_it_overflows():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))
    sensor = Headroom([model])
    warned = overflowed = None
    for step in range(200):
        with torch.no_grad():
            model[0].weight.mul_(1.08)
        with torch.autocast("cpu", torch.float16):
            sensor.open()
            output = model(torch.ones(4, 8))
        findings = list(sensor.judge(sensor.close().tolist()))
        warned = step if findings and warned is None else warned
        if not output.isfinite().all():
            overflowed = step
            break
    assert overflowed is not None
    assert overflowed - warned >= 18


def test_ordinary_training_says_nothing():
    torch.manual_seed(0)
    model = Noisy()
    sensor = Headroom([model])
    findings = []

    def around(_, what):
        if what == "forward":
            sensor.open()
        if what == "step":
            findings.extend(sensor.judge(sensor.close().tolist()))

    run(model, torch.optim.SGD(model.parameters(), 0.1), around)
    assert findings == []


def test_hooks_are_there_in_sampled_steps_only():
    model = Loud(1.0)
    sensor = Headroom([model])
    assert hooks_of(model) == 0
    sensor.open()
    assert hooks_of(model) == 3
    sensor.close()
    assert hooks_of(model) == 0


def test_after_an_exception_hooks_are_neither_doubled_nor_left():
    model = nn.Sequential(Says(half(60000.0)), nn.Linear(4, 4))
    sensor = Headroom([model])
    sensor.open()
    with pytest.raises(RuntimeError):
        model(None)
    sensor.open()
    assert hooks_of(model) == 3
    assert sensor.close() is None
    assert hooks_of(model) == 0


def test_a_copy_made_while_it_looks_carries_nothing_on():
    model = Loud(20000.0)
    sensor = Headroom([model])
    sensor.open()
    copy.deepcopy(model)(torch.ones(2, 4))
    assert sensor.close() is None


def test_nothing_is_read_from_the_device(monkeypatch):
    model = Loud(20000.0)
    sensor = Headroom([model])
    with Reads(monkeypatch) as reads:
        sensor.open()
        model(torch.ones(2, 4))
        sensor.close()
    assert reads.count == 0


def test_training_is_the_same_to_the_last_bit():
    states = []
    for looks in (False, True):
        torch.manual_seed(0)
        model = Noisy()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        sensor = Headroom([model])

        def around(_, what, looks=looks, sensor=sensor):
            if looks and what in ("forward", "step"):
                sensor.open() if what == "forward" else sensor.close()

        run(model, optimizer, around)
        states.append([*kept(model, optimizer), torch.get_rng_state()])
    assert same(*states)


def test_modules_inside_a_compiled_wrapper_are_not_hooked_and_the_wrapper_is():
    model = Loud(20000.0)
    compiled = torch.compile(model, backend="eager")
    sensor = Headroom([compiled])
    sensor.open()
    assert hooks_of(model) == 0
    compiled(torch.ones(2, 4))
    (detail,) = [finding.detail for finding in sensor.judge(sensor.close().tolist())]
    assert detail.startswith("OptimizedModule: ")


def test_a_compiled_function_that_calls_the_model_is_left_alone():
    model = Loud(20000.0)
    sensor = Headroom([model])
    sensor.open()
    expected = model(torch.ones(2, 4))
    sensor.close()
    sensor.open()

    @torch.compile(backend="eager", fullgraph=True)
    def step(values):
        return model(values)

    assert torch.equal(step(torch.ones(2, 4)), expected)
    assert sensor.close() is None


def test_a_model_under_vmap_is_left_alone():
    model = Says(None)
    model.forward = lambda values: values * 2
    sensor = Headroom([model])
    sensor.open()
    vmap(lambda x: functional_call(model, {}, (x,)))(half(30000.0, 1.0))
    assert sensor.close() is None


def test_inference_tensors_have_no_version_and_are_seen():
    with torch.inference_mode():
        (detail,) = told(half(30000.0))
    assert "30000" in detail


def test_two_models_with_the_same_names_are_told_apart():
    models = [nn.Sequential(Says(half(1.0))), nn.Sequential(Says(half(30000.0)))]
    sensor = Headroom(models)
    (detail,) = details(sensor, lambda: [each(None) for each in models])
    assert detail.startswith("0 (model 2): ")


def test_figures_may_be_read_after_the_next_sample():
    model = nn.ModuleList([Says(half(30000.0)), Says(half(1.0))])
    sensor = Headroom([model])
    figures = [figures_of(sensor, each) for each in model]
    assert [len(list(sensor.judge(each))) for each in figures] == [1, 0]


def test_what_was_told_is_remembered_over_a_restart():
    model = Says(half(30000.0))
    sensor, again = Headroom([model]), Headroom([model])
    assert details(sensor, model)
    again.load_state_dict(sensor.state_dict())
    assert details(again, model) == []


class Autocast(nn.Module):
    """A linear layer that computes in float16."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, rows):
        with torch.autocast("cpu", torch.float16):
            return self.linear(rows).float()


def warned(scaler, *, trained=True):
    model = Autocast().requires_grad_(trained)
    head = nn.Linear(2, 2)
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], 0.01)
    with Guard([model, head], optimizer, scaler=scaler, sample_every=1) as guard:
        for _ in range(3):
            optimizer.zero_grad()
            head(model(torch.randn(3, 4))).square().mean().backward()
            optimizer.step()
        return [each.detail for decision in guard.events.decisions for each in decision.findings]


def test_gradients_through_float16_without_a_scaler_are_told_once():
    (detail,) = warned(None)
    assert detail.startswith("linear puts out float16")


def test_with_a_scaler_or_without_gradients_they_are_not():
    assert warned(torch.amp.GradScaler("cpu", init_scale=1.0)) == []
    assert warned(None, trained=False) == []
