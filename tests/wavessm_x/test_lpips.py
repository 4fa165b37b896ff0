"""LPIPS against the network of torchmetrics, given the same AlexNet of random weights."""

import math

import pytest
import torch
from torch import nn
from torchmetrics.functional.image import lpips as theirs

from wavessm_x.config import ConfigError
from wavessm_x.lpips import Lpips


def alexnet():
    """The features of AlexNet, written down from the table of the paper."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(), nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    )


@pytest.fixture(scope="module")
def reference():
    """The network of torchmetrics with its own weights of the depths."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "_get_tv_model_features", lambda *_, **__: alexnet())
        return theirs._LPIPS(net="alex")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save({f"features.{name}": value for name, value in alexnet().state_dict().items()}, path)
    return path


def pair(height=70, width=64):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, height, width, generator=generator).unbind()


@pytest.mark.parametrize("size", [(70, 64), (31, 31), (64, 129)])
def test_it_is_that_of_torchmetrics(reference, path, size):
    output, target = pair(*size)
    expected = reference(output[None], target[None], normalize=True).item()
    assert expected > 0
    assert Lpips(path)(output, target) == pytest.approx(expected, rel=1e-5)


def test_the_weights_of_the_depths_are_taken_from_the_file_if_it_has_them(reference, tmp_path):
    state = {name: value for name, value in reference.state_dict().items() if not name.startswith("lins.")}
    torch.save(state | {f"lin{depth}.model.1.weight": 2 * state[f"lin{depth}.model.1.weight"] for depth in range(5)},
               tmp_path / "lpips.pth")  # fmt: skip
    output, target = pair()
    expected = 2 * reference(output[None], target[None], normalize=True).item()
    assert Lpips(tmp_path / "lpips.pth")(output, target) == pytest.approx(expected, rel=1e-5)


def test_equal_pictures_have_no_distance(path):
    _, target = pair()
    assert Lpips(path)(target, target) == 0


def test_values_beyond_the_range_count_as_they_would_be_saved(path):
    _, target = pair()
    assert Lpips(path)(target + 2, target) == Lpips(path)(torch.ones_like(target), target)


def test_pictures_that_are_too_small_or_lost_have_no_number(path):
    assert math.isnan(Lpips(path)(*pair(30, 64)))
    output, target = pair()
    output[0, 3, 3] = float("nan")
    assert math.isnan(Lpips(path)(output, target))


def test_a_file_of_another_network_is_told(path, tmp_path):
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(
        ConfigError, match=r"no weights of AlexNet: 9 of 10 keys are missing, such as features\.0\.bias"
    ):
        Lpips(tmp_path / "other.pth")
    state = torch.load(path, weights_only=True)
    torch.save(state | {"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "shape.pth")
    with pytest.raises(ConfigError, match=r"features\.0\.weight has the shape \(64, 3, 3, 3\); \(64, 3, 11, 11\)"):
        Lpips(tmp_path / "shape.pth")


def test_depths_of_another_network_are_told(path, tmp_path):
    state = torch.load(path, weights_only=True)
    depths = {f"lin{depth}.model.1.weight": torch.zeros(1, 64, 1, 1) for depth in range(5)}
    torch.save(state | depths, tmp_path / "depths.pth")
    with pytest.raises(ConfigError, match=r"lin1\.model\.1\.weight has the shape \(1, 64, 1, 1\); \(1, 192, 1, 1\)"):
        Lpips(tmp_path / "depths.pth")
    torch.save(state | {"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, tmp_path / "some.pth")
    with pytest.raises(ConfigError, match=r"some\.pth lacks lin1\.model\.1\.weight"):
        Lpips(tmp_path / "some.pth")
