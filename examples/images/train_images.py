"""Train a small ResNet on scikit-learn's pictures of digits: one file, one loop, and one line that guards it.

python examples/images/train_images.py
python examples/images/train_images.py --plant 40             # one batch in which a pixel is NaN, as of a corrupt file
python examples/images/train_images.py --plant 40 --no-guard  # the same without the guard: NaN from there on

Shapes: N pictures, C channels, H by W pixels.
"""

import argparse
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn import functional

import torchmend


@dataclass(frozen=True)
class Options:
    """What the command line can change."""

    epochs: int = 4
    batch: int = 64
    channels: int = 16
    lr: float = 0.1
    momentum: float = 0.9
    decay: float = 5e-4
    average: bool = False
    """Whether the averaged network is evaluated instead."""
    plant: int = -1
    """The step whose batch is poisoned."""
    guard: bool = True
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    seed: int = 0


class Result(NamedTuple):
    """How a training ended."""

    loss: float
    """Mean cross-entropy of the pictures that were not trained on."""
    accuracy: float


# Data


class Pictures(NamedTuple):
    """Pictures of digits, 8 by 8 pixels from 0 to 1, and which digits they are."""

    images_N1HW: Tensor
    labels_N: Tensor


def pictures(device: str) -> tuple[Pictures, Pictures]:
    """Return pictures to train on and others to validate on: every fifth."""
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float().unsqueeze(1).to(device) / 16
    labels = torch.from_numpy(bunch.target).long().to(device)
    is_other = torch.arange(len(labels), device=device) % 5 == 0
    return Pictures(images[~is_other], labels[~is_other]), Pictures(images[is_other], labels[is_other])


# The network


class Block(nn.Module):
    """Two convolutions with BatchNorm, beside a residual path."""

    def __init__(self, given: int, made: int, stride: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(given, made, 3, stride, 1, bias=False)
        self.conv_2 = nn.Conv2d(made, made, 3, 1, 1, bias=False)
        self.bn_1, self.bn_2 = nn.BatchNorm2d(made), nn.BatchNorm2d(made)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or given != made:
            self.shortcut = nn.Sequential(nn.Conv2d(given, made, 1, stride, bias=False), nn.BatchNorm2d(made))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return features of `made` channels."""
        y_NCHW = functional.relu(self.bn_1(self.conv_1(x_NCHW)))
        return functional.relu(self.bn_2(self.conv_2(y_NCHW)) + self.shortcut(x_NCHW))


class ResNet(nn.Module):
    """A stem, three blocks, and a head."""

    def __init__(self, channels: int, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        self.blocks = nn.Sequential(
            Block(channels, channels, 1), Block(channels, 2 * channels, 2), Block(2 * channels, 4 * channels, 2)
        )
        self.head = nn.Linear(4 * channels, classes)

    def forward(self, images_N1HW: Tensor) -> Tensor:
        """Return the logits of the classes; shape (N, classes)."""
        features_NCHW = self.blocks(self.stem(images_N1HW))
        logits: Tensor = self.head(features_NCHW.mean((2, 3)))
        return logits


# The loop


def train(options: Options) -> Result:
    """Train, and return what the network is worth."""
    torch.manual_seed(options.seed)
    training, validation = pictures(options.device)
    steps = len(training.labels_N) // options.batch
    model = ResNet(options.channels).to(options.device)
    optimizer = torch.optim.SGD(
        model.parameters(), options.lr, momentum=options.momentum, weight_decay=options.decay, nesterov=True
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=options.epochs * steps)
    decaying = torch.optim.swa_utils.get_ema_multi_avg_fn(0.95)  # type: ignore[no-untyped-call]
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=decaying, use_buffers=True)
    if options.guard:
        torchmend.Guard(model, optimizer, scheduler=scheduler, ema=average)  # the one added line

    shuffling = torch.Generator().manual_seed(options.seed)
    result = Result(0.0, 0.0)
    for epoch in range(options.epochs):
        order = torch.randperm(len(training.labels_N), generator=shuffling)
        for step in range(epoch * steps, (epoch + 1) * steps):
            at = order[(step % steps) * options.batch :][: options.batch]
            images_N1HW = shifted(training.images_N1HW[at], shuffling)
            if step == options.plant:
                images_N1HW[0, 0, 4, 4] = torch.nan
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(images_N1HW), training.labels_N[at], label_smoothing=0.05)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
            average.update_parameters(model)
        result = evaluate(average if options.average else model, validation)
        print(f"epoch {epoch + 1}: validation loss {result.loss:.4f}, accuracy {result.accuracy:.3f}")
    return result


def shifted(images_N1HW: Tensor, generator: torch.Generator) -> Tensor:
    """Return a copy of the pictures, moved by up to one pixel."""
    down, right = (int(each) for each in torch.randint(0, 3, (2,), generator=generator))
    _, _, height, width = images_N1HW.shape
    padded = functional.pad(images_N1HW, (1, 1, 1, 1))
    return padded[:, :, down : down + height, right : right + width].clone()


@torch.no_grad()
def evaluate(model: nn.Module, pictures: Pictures) -> Result:
    """Return the mean loss and the accuracy."""
    model.eval()
    logits = model(pictures.images_N1HW)
    model.train()
    loss = functional.cross_entropy(logits, pictures.labels_N)
    return Result(float(loss), float((logits.argmax(1) == pictures.labels_N).float().mean()))


def options_from(arguments: list[str] | None = None) -> Options:
    """Read the command line: an option for each field."""
    parser = argparse.ArgumentParser(description="Train a small ResNet on pictures of digits.")
    for each in fields(Options):
        if isinstance(each.default, bool):
            parser.add_argument(f"--{each.name}", action=argparse.BooleanOptionalAction, default=each.default)
        else:
            parser.add_argument(f"--{each.name}", type=type(each.default), default=each.default)
    return Options(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    train(options_from())
