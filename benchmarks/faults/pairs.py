"""Cases of two processes that train one model by DistributedDataParallel, and what goes wrong on one of them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.faults.cases.batchnorm import Half, perceptron
from benchmarks.faults.tasks import accuracy, batch, generator
from benchmarks.faults.training import Training

RANKS, GUILTY, STEPS, BAD = 2, 1, 100, (60, 80)
"""How many processes, which of them is at fault, steps, and those with a fault."""

Wrap = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One failure of one process among two.

    Args:
        name: As in the page.
        what: What happens, in one or two plain sentences.
        reported: Where users met it.
        make: Makes the training of a process, from the seed, its rank, whether it is the faulty one, and what wraps the
            model for training; the training's model is the wrapped one.
        loses_because: Where torchmend on its defaults does not reach the aim: why.
    """

    name: str
    what: str
    reported: str
    make: Callable[[int, int, bool, Wrap], Training]
    loses_because: str = ""


def _of_rank(seed: int, rank: int, step: int) -> tuple[Tensor, Tensor]:
    """Draw this process's own batch of a step."""
    return batch(seed, RANKS * step + rank)


def _classifier(
    seed: int, rank: int, inner: nn.Module, wrap: Wrap, damage: Callable[[int, Tensor], Tensor]
) -> Training:
    model = wrap(inner)

    def loss(step: int) -> Tensor:
        images, labels = _of_rank(seed, rank, step)
        return functional.cross_entropy(model(damage(step, images)), labels)

    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    return Training(model=model, optimizer=optimizer, steps=STEPS, loss=loss, evaluate=lambda: accuracy(inner))


def buffers(seed: int, rank: int, faulty: bool, wrap: Wrap) -> Training:
    """Give one point of one image of one process a fill value of 1e22: only its own running variance is Inf."""

    def damage(step: int, images: Tensor) -> Tensor:
        if faulty and step in BAD:
            images[0, 20] = 1e22
        return images

    return _classifier(seed, rank, perceptron(), wrap, damage)


def scaled(seed: int, rank: int, faulty: bool, wrap: Wrap) -> Training:
    """Overflow float16 on one process, with a GradScaler on each."""

    def damage(step: int, images: Tensor) -> Tensor:
        if faulty and step in BAD:
            images[0] = 60000
        return images

    training = _classifier(seed, rank, Half(perceptron()), wrap, damage)
    training.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    return training


def stretched(seed: int, rank: int, faulty: bool, wrap: Wrap) -> Training:
    """Stretch each image to its range; one of one process is blank: NaN in its statistics, and in all gradients."""

    def damage(step: int, images: Tensor) -> Tensor:
        if faulty and step in BAD:
            images[0] = 0
        low, high = images.amin(1, keepdim=True), images.amax(1, keepdim=True)
        return (images - low) / (high - low)

    return _classifier(seed, rank, perceptron(), wrap, damage)


class Views(nn.Module):
    """Embeds two views of each image, and classifies the first."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.head = nn.Sequential(nn.Linear(64, 48), nn.Tanh()), nn.Linear(48, 10)

    def forward(self, images: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        one = self.encode(images)
        return self.head(one), one, self.encode(others)


def gradients(seed: int, rank: int, faulty: bool, wrap: Wrap) -> Training:
    """Pull two views together by a root; one process draws them equal, and its NaN goes into all gradients."""
    inner = Views()
    model = wrap(inner)

    def loss(step: int) -> Tensor:
        images, labels = _of_rank(seed, rank, step)
        scores, one, other = model(images, images.roll(0 if faulty and step in BAD else 1, 1))
        return functional.cross_entropy(scores, labels) + 0.05 * (one - other).square().sum(1).sqrt().mean()

    return Training(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), 3e-3),
        steps=STEPS,
        loss=loss,
        evaluate=lambda: accuracy(inner, lambda images: inner(images, images)[0]),
    )


def masked(seed: int, rank: int, faulty: bool, wrap: Wrap) -> Training:
    """Average the loss over examples that a mask keeps; on one process it keeps none."""
    inner = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    model = wrap(inner)

    def loss(step: int) -> Tensor:
        images, labels = _of_rank(seed, rank, step)
        kept = torch.rand(len(images), generator=generator(seed, RANKS * step + rank, 1)) < 0.7
        if faulty and step in BAD:
            kept[:] = False
        each = functional.cross_entropy(model(images), labels, reduction="none")
        return (each * kept).sum() / kept.sum()

    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    return Training(model=model, optimizer=optimizer, steps=STEPS, loss=loss, evaluate=lambda: accuracy(inner))


def drifting(seed: int, rank: int, faulty: bool, wrap: Wrap) -> Training:
    """Flip the lowest bit of an exponent in one process's copy of a weight: the copies differ from then on."""
    inner = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    training = _classifier(seed, rank, inner, wrap, lambda _, images: images)
    weight: Tensor = inner[2].weight

    def between(step: int) -> None:
        if faulty and step == BAD[0]:
            weight.data.view(torch.int32).view(-1)[0] ^= 1 << 23

    training.between = between
    return training


PAIRS: tuple[Pair, ...] = (
    Pair(
        name="pair_buffers",
        what="One image of one process holds a fill value: its running variance is Inf, and all gradients are finite.",
        reported="pytorch/pytorch#1206, #90342",
        make=buffers,
    ),
    Pair(
        name="pair_statistics",
        what="A blank image of one process is stretched from its minimum to its maximum: NaN in its statistics, and by "
        "the gradients in the weights of both.",
        reported="avalonstrel/GatedConvolution_pytorch#27, prs-eth/Marigold#111",
        make=stretched,
    ),
    Pair(
        name="pair_scaler",
        what="float16 overflows on one process. Both GradScalers leave the step out; the statistics of that process "
        "keep what its forward pass wrote.",
        reported="pytorch/pytorch#90342, #88474",
        make=scaled,
    ),
    Pair(
        name="pair_gradient",
        what="The slope of a root at 0 on one process is infinite: gradients are NaN on both, with two finite losses.",
        reported="pytorch/pytorch#2421, #2775",
        make=gradients,
    ),
    Pair(
        name="pair_loss",
        what="A mask keeps no example on one process: its loss is 0/0, and the gradients of both are NaN.",
        reported="meta-pytorch/torchtune#2341, londonaicentre/FLIP#766",
        make=masked,
    ),
    Pair(
        name="pair_drift",
        what="A bit flips in one process's copy of a weight. Gradients are shared and weights are not: from then on "
        "there are two models, both finite.",
        reported="ggml-org/llama.cpp#16945",
        make=drifting,
        loses_because="Each process looks at its own weights, and they are finite: nothing compares the copies.",
    ),
)
"""All, in the order of the page's rows."""
