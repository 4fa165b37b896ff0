"""The perceptual term: which files it takes, and that it stays out of the way."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from wavessm_x.config import ConfigError
from wavessm_x.losses import Losses
from wavessm_x.losses.perceptual import COMPARED, MEAN, STD, WIDTHS, Perceptual


@pytest.fixture(scope="module")
def weights():
    """Random weights with the keys and shapes of torchvision's VGG19, as far as conv4_4."""
    generator = torch.Generator().manual_seed(0)
    state, channels, index = {}, 3, 0
    for width in WIDTHS:
        if width:
            scale = (2 / (9 * channels)) ** 0.5
            state[f"features.{index}.weight"] = scale * torch.randn(width, channels, 3, 3, generator=generator)
            state[f"features.{index}.bias"] = 0.1 * torch.randn(width, generator=generator)
            channels = width
        index += 2 if width else 1
    return state


def pair():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(1, 3, 24, 16, generator=generator).requires_grad_(), torch.rand(1, 3, 24, 16, generator=generator)


def saved(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def by_hand(weights, image):
    """Return the features that are compared, layer by layer from the table of the paper."""
    image = (image - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    features, index = [], 0
    for width in WIDTHS:
        if width:
            name = f"features.{index}"
            image = functional.conv2d(image, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1).relu()
            index += 2
        else:
            image = functional.max_pool2d(image, 2)
            index += 1
        if index - 1 in COMPARED:
            features.append(image)
    return features


def test_the_convolutions_have_the_numbers_of_torchvision(weights):
    numbers = sorted({int(key.split(".")[1]) for key in weights})
    assert numbers == [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25]


def test_it_is_the_mean_l1_of_features_and_has_a_gradient(weights, tmp_path):
    output, target = pair()
    term = Perceptual(saved(weights, tmp_path / "vgg.pth"))
    value = term(output, target)
    ours, theirs = by_hand(weights, output.detach()), by_hand(weights, target)
    expected = sum((a - b).abs().mean() for a, b in zip(ours, theirs, strict=True)) / 4
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    value.backward()
    assert output.grad.abs().sum() > 0
    assert term(target, target).item() == 0


@pytest.mark.parametrize("name", ["vgg.pth", "vgg.safetensors"])
@pytest.mark.parametrize("prefix", ["", "module.vgg.", None])
def test_files_of_both_kinds_with_any_prefix_are_read(weights, tmp_path, name, prefix):
    keys = {key: key.removeprefix("features.") if prefix is None else prefix + key for key in weights}
    state = {keys[key]: value for key, value in weights.items()} | {"classifier.0.weight": torch.zeros(2, 2)}
    output, target = pair()
    expected = Perceptual(saved(weights, tmp_path / "plain.pth"))(output, target).item()
    assert Perceptual(saved(state, tmp_path / name))(output, target).item() == expected


def test_missing_keys_are_named(weights, tmp_path):
    state = {key: value for key, value in weights.items() if not key.startswith("features.16.")}
    with pytest.raises(ConfigError, match=r"2 of 24 keys are missing, such as features\.16\.weight"):
        Perceptual(saved(state, tmp_path / "vgg.pth"))


def test_a_wrong_shape_is_named(weights, tmp_path):
    state = weights | {"features.5.weight": torch.zeros(128, 64, 1, 1)}
    with pytest.raises(
        ConfigError, match=r"features\.5\.weight has the shape \(128, 64, 1, 1\); \(128, 64, 3, 3\) is expected"
    ):
        Perceptual(saved(state, tmp_path / "vgg.pth"))


def test_weights_with_nan_are_refused(weights, tmp_path):
    state = weights | {"features.7.bias": torch.full((128,), float("nan"))}
    with pytest.raises(ConfigError, match=r"features\.7\.bias has NaN or Inf"):
        Perceptual(saved(state, tmp_path / "vgg.pth"))


@pytest.mark.parametrize(
    "content", [None, b"", b"no weights at all", b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R."]
)
@pytest.mark.parametrize("name", ["vgg.pth", "vgg.safetensors"])
def test_a_file_that_is_missing_or_no_weights_is_told(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{name} cannot be read as weights"):
        Perceptual(tmp_path / name)


def test_a_list_is_no_state_dict(tmp_path):
    with pytest.raises(ConfigError, match="holds a list; a state dict is expected"):
        Perceptual(saved([torch.zeros(2)], tmp_path / "vgg.pth"))


def test_with_weights_the_perceptual_loss_is_on_by_the_schedule(weights, tmp_path):
    losses = Losses((1, 1, 1, 0.5, 0.3), 330, saved(weights, tmp_path / "vgg.pth"))
    output, target = pair()
    assert losses(output, target, 0)[1]["perceptual"] == 0
    total, parts = losses(output, target, 60)
    assert parts["perceptual"] > 0
    assert total.item() == pytest.approx(sum(losses.weights(60)[name] * part.item() for name, part in parts.items()))
