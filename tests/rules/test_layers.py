from collections import OrderedDict
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from torchmend.facts.tensors import NormLayer, TensorRef
from torchmend.rules.layers import LOOK_BACK, norm_layers
from torchmend.rules.roles import assign_roles


def refs_of(state: Mapping[str, torch.Tensor], container: str = "") -> list[TensorRef]:
    return [
        TensorRef(
            source="a.pt",
            container=container,
            name=name,
            shape=tuple(tensor.shape),
            dtype=str(tensor.dtype).removeprefix("torch."),
        )
        for name, tensor in state.items()
    ]


def layers_of(module: nn.Module, container: str = "") -> tuple[NormLayer, ...]:
    return norm_layers(assign_roles(refs_of(module.state_dict(), container)))


def only(module: nn.Module) -> NormLayer:
    (layer,) = layers_of(module)
    return layer


def stack(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def feeding(module: nn.Module) -> str | None:
    ref = only(module).feeding
    return ref and ref.name


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 5, 3)
        self.bn2 = nn.BatchNorm2d(5)


def test_every_norm_layer_is_found_in_order() -> None:
    assert [layer.prefix for layer in layers_of(nn.ModuleList([Block(), Block()]))] == [
        "0.bn1", "0.bn2", "1.bn1", "1.bn2",
    ]  # fmt: skip


@pytest.mark.parametrize("leaf", ["mean", "var", "weight", "bias"])
def test_a_layer_knows_its_members(leaf: str) -> None:
    layer = only(stack(bn=nn.BatchNorm2d(4)))
    names = {"mean": "bn.running_mean", "var": "bn.running_var", "weight": "bn.weight", "bias": "bn.bias"}
    assert getattr(layer, leaf).name == names[leaf]


@pytest.mark.parametrize("leaf", ["weight", "bias"])
def test_a_layer_without_affine_parameters_has_none(leaf: str) -> None:
    assert getattr(only(stack(bn=nn.BatchNorm2d(4, affine=False))), leaf) is None


def test_a_weight_of_another_size_is_not_the_layers_own() -> None:
    state = nn.BatchNorm2d(4).state_dict() | {"weight": torch.ones(5)}
    (layer,) = norm_layers(assign_roles(refs_of(state)))
    assert layer.weight is None


def test_a_layer_has_as_many_channels_as_its_mean() -> None:
    assert only(stack(bn=nn.BatchNorm2d(7))).channels == 7


def test_a_layer_norm_keeps_no_statistics() -> None:
    assert (
        layers_of(
            stack(norm=nn.LayerNorm(4), group=nn.GroupNorm(2, 4), batch=nn.BatchNorm1d(4, track_running_stats=False))
        )
        == ()
    )


def test_the_layers_of_every_container_are_found() -> None:
    state = Block().state_dict()
    refs = assign_roles([*refs_of(state, "model"), *refs_of(state, "ema")])
    assert [(layer.container, layer.prefix) for layer in norm_layers(refs)] == [
        ("model", "bn1"), ("model", "bn2"), ("ema", "bn1"), ("ema", "bn2"),
    ]  # fmt: skip


def test_the_layers_of_an_averaged_copy_say_so() -> None:
    state = Block().state_dict()
    refs = assign_roles([*refs_of(state, "model"), *refs_of(state, "ema")])
    assert [layer.averaged for layer in norm_layers(refs)] == [False, False, True, True]


def test_a_model_that_is_one_norm_layer_has_an_empty_prefix() -> None:
    assert only(nn.BatchNorm2d(4)).prefix == ""


# What feeds a layer

CASES: dict[str, tuple[nn.Module, str | None]] = {
    "convolution": (stack(conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4)), "conv.weight"),
    "linear": (stack(fc=nn.Linear(3, 4), bn=nn.BatchNorm1d(4)), "fc.weight"),
    "transposed convolution": (stack(up=nn.ConvTranspose2d(3, 4, 3), bn=nn.BatchNorm2d(4)), "up.weight"),
    "depthwise convolution": (stack(dw=nn.Conv2d(4, 4, 3, groups=4), bn=nn.BatchNorm2d(4)), "dw.weight"),
    "nearest of two": (stack(a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1), bn=nn.BatchNorm2d(4)), "b.weight"),
    "of matching size": (stack(a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(7, 9, 1), bn=nn.BatchNorm2d(4)), "a.weight"),
    "first in the model": (stack(bn=nn.BatchNorm2d(3), conv=nn.Conv2d(3, 4, 3)), None),
    "of no matching size": (stack(conv=nn.Conv2d(3, 5, 3), bn=nn.BatchNorm2d(4)), None),
    "over an activation with weights": (
        stack(conv=nn.Conv2d(3, 4, 3), act=nn.PReLU(4), bn=nn.BatchNorm2d(4)), "conv.weight",
    ),
    "beyond the look-back": (
        stack(conv=nn.Conv2d(3, 4, 3), act=nn.ModuleList([nn.PReLU() for _ in range(LOOK_BACK)]), bn=nn.BatchNorm2d(4)),
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_weight_that_feeds_a_layer_is_guessed(case: str) -> None:
    module, expected = CASES[case]
    assert feeding(module) == expected


def test_each_layer_of_a_block_is_fed_by_its_own_convolution() -> None:
    fed = [layer.feeding.name for layer in layers_of(Block()) if layer.feeding]
    assert fed == ["conv1.weight", "conv2.weight"]


def test_a_layer_is_fed_from_its_own_container_only() -> None:
    refs = assign_roles([*refs_of(nn.Conv2d(3, 4, 3).state_dict(), "a"), *refs_of(nn.BatchNorm2d(4).state_dict(), "b")])
    (layer,) = norm_layers(refs)
    assert layer.feeding is None


def test_the_bias_beside_the_feeding_weight_is_found() -> None:
    layer = only(stack(conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4)))
    assert (layer.feeding_bias and layer.feeding_bias.name) == "conv.bias"


def test_a_convolution_without_a_bias_gives_none() -> None:
    assert only(stack(conv=nn.Conv2d(3, 4, 3, bias=False), bn=nn.BatchNorm2d(4))).feeding_bias is None


def test_a_layer_that_nothing_feeds_has_no_feeding_bias() -> None:
    assert only(stack(bn=nn.BatchNorm2d(4))).feeding_bias is None


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod."])
def test_a_wrapper_in_front_of_the_names_changes_no_guess(wrapper: str) -> None:
    state = {wrapper + name: t for name, t in Block().state_dict().items()}
    fed = [layer.feeding.name for layer in norm_layers(assign_roles(refs_of(state))) if layer.feeding]
    assert fed == [f"{wrapper}conv1.weight", f"{wrapper}conv2.weight"]
