"""The quick verdict: yes only if nothing can be wrong, with one read a device."""

import pytest
import torch
from torch import nn

from torchmend.live.screening import is_evidently_sound

NAN, INF = float("nan"), float("inf")


def network():
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))


def test_a_fresh_model_is_evidently_sound():
    assert is_evidently_sound(network())


def test_a_model_without_tensors_is_evidently_sound():
    assert is_evidently_sound(nn.ReLU())


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.weight", "1.running_mean", "1.running_var"])
def test_a_single_bad_element_is_seen(name, value):
    model = network()
    model.state_dict()[name].view(-1)[2] = value
    assert not is_evidently_sound(model)


def test_a_negative_variance_is_seen_and_a_negative_mean_is_sound():
    model = network()
    model[1].running_mean[1] = -1.0
    assert is_evidently_sound(model)
    model[1].running_var[1] = -1.0
    assert not is_evidently_sound(model)


def test_only_what_is_wanted_is_looked_at():
    model = network()
    model[0].weight.data[0, 0] = NAN
    assert is_evidently_sound(model, statistics_only=True)


def test_a_norm_that_overflows_is_looked_at_closely():
    model = nn.Linear(100, 100)
    model.weight.data.fill_(1e37)
    assert not is_evidently_sound(model)


def test_the_device_is_waited_for_once(monkeypatch):
    reads = []
    for name in ("cpu", "item", "tolist", "__bool__", "__float__", "__int__"):
        original = getattr(torch.Tensor, name)

        def spy(self, *args, _name=name, _original=original):
            reads.append(_name)
            return _original(self, *args)

        monkeypatch.setattr(torch.Tensor, name, spy)
    model = nn.Sequential(network(), network().double(), network().bfloat16())
    assert is_evidently_sound(model)
    assert reads == ["__bool__"]
