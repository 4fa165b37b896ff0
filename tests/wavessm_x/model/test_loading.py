import pytest
import torch
from torch import nn

from wavessm_x.model import KeysError, load_weights


def model():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_weights_come_back_whatever_wrapped_the_model(prefix):
    source, target = model(), model()
    load_weights(target, {prefix + key: tensor for key, tensor in source.state_dict().items()})
    for key, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], tensor), key


def test_all_that_differs_is_listed_and_nothing_is_loaded():
    target = model()
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    given = model().state_dict() | {"2.weight": torch.zeros(1), "0.weight": torch.zeros(2, 2)}
    del given["1.running_mean"]
    with pytest.raises(KeysError) as caught:
        load_weights(target, given)
    assert caught.value.missing == ["1.running_mean"]
    assert caught.value.unexpected == ["2.weight"]
    assert caught.value.misshaped == {"0.weight": ((2, 2), (3, 2))}
    assert str(caught.value).splitlines()[1:] == [
        "1 missing: 1.running_mean",
        "1 unexpected: 2.weight",
        "1 of another shape: 0.weight is [2, 2], expected [3, 2]",
    ]
    for key, tensor in target.state_dict().items():
        assert torch.equal(before[key], tensor), key


def test_a_long_list_is_cut_in_the_message_alone():
    extra = {f"extra.{number}": torch.zeros(1) for number in range(25)}
    with pytest.raises(KeysError, match=r"25 unexpected: extra\.0, .*extra\.9, and 15 more") as caught:
        load_weights(model(), model().state_dict() | extra)
    assert len(caught.value.unexpected) == 25
