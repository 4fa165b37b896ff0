"""Losses that are finite, with gradients that are not."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.faults.case import Case, Kind
from benchmarks.faults.tasks import accuracy, batch, digits, generator
from benchmarks.faults.training import Act, Training

LEFT_OUT = frozenset({Act.REFUSE, Act.UNDO})


def views(seed: int, pull: Callable[[Tensor, Tensor], Tensor], shift: Callable[[int], int]) -> Training:
    """Train a classifier whose embeddings of two views of a digit are pulled together.

    Args:
        seed: Of the batches.
        pull: From the embeddings of both views to a loss.
        shift: By how many points the second view is shifted in a step.
    """
    encode, head = nn.Sequential(nn.Linear(64, 48), nn.Tanh()), nn.Linear(48, 10)
    model = nn.Sequential(encode, head)

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        one, other = encode(images), encode(images.roll(shift(step), 1))
        return functional.cross_entropy(head(one), labels) + 0.05 * pull(one, other)

    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    return Training(model=model, optimizer=optimizer, steps=200, loss=loss, evaluate=lambda: accuracy(model))


def sometimes_equal(faulty: bool) -> Callable[[int], int]:
    """Return shifts of which two are zero in a faulty run: twice the augmentation draws no change."""
    return lambda step: 0 if faulty and step in (60, 130) else 1


def norm_at_zero(seed: int, faulty: bool) -> Training:
    """Pull by the distance, a root of a sum of squares: where the views are equal its slope is 0 times Inf."""
    return views(seed, lambda one, other: (one - other).square().sum(1).sqrt().mean(), sometimes_equal(faulty))


def angle_at_zero(seed: int, faulty: bool) -> Training:
    """Pull by the angle: where the views are equal the cosine is 1, and the slope of the arc cosine infinite."""

    def pull(one: Tensor, other: Tensor) -> Tensor:
        return functional.cosine_similarity(one, other).clamp(-1, 1).acos().mean()

    return views(seed, pull, sometimes_equal(faulty))


def where_sqrt(seed: int, faulty: bool) -> Training:
    """Push different images of a batch apart, in pairs drawn at random: some are an image with itself.

    The code knows: `where` takes 0 for them. The root's slope at 0 is still worked out, and 0 times Inf is NaN.
    """
    encode, head = nn.Sequential(nn.Linear(64, 48), nn.Tanh()), nn.Linear(48, 10)
    model = nn.Sequential(encode, head)

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        one = encode(images)
        partner = torch.randperm(len(one), generator=generator(seed, step, 1))
        partner = partner if faulty else torch.arange(len(one)).roll(1 + step % 7)
        squared = (one - one[partner]).square().sum(1)
        distance = torch.where(squared > 0, squared.sqrt(), torch.zeros(()))
        return functional.cross_entropy(head(one), labels) + 0.05 * functional.relu(2 - distance).mean()

    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    return Training(model=model, optimizer=optimizer, steps=200, loss=loss, evaluate=lambda: accuracy(model))


FRAMES, BLANK = 6, 10


def impossible_target(seed: int, faulty: bool) -> Training:
    """Read two digits side by side by CTC in six frames; one transcript of one batch has nine letters."""
    model = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, FRAMES * 11))

    def read(left: Tensor, right: Tensor) -> Tensor:
        scores: Tensor = model(torch.cat((left, right), 1)).reshape(-1, FRAMES, 11).log_softmax(2)
        return scores

    def loss(step: int) -> Tensor:
        left, first = batch(seed, 2 * step)
        right, second = batch(seed, 2 * step + 1)
        targets, lengths = torch.stack((first, second), 1), torch.full((len(left),), 2)
        if faulty and step in (90, 170):
            targets = torch.cat((targets, torch.randint(0, 10, (len(left), 7), generator=generator(seed, step, 1))), 1)
            lengths[0] = 9
        frames = torch.full((len(left),), FRAMES)
        return functional.ctc_loss(read(left, right).transpose(0, 1), targets, frames, lengths, blank=BLANK)

    def evaluate() -> float:
        data = digits()
        order = torch.randperm(len(data.test_labels), generator=generator(seed, purpose=2))
        with torch.no_grad():
            scores = read(data.test_images, data.test_images[order])
        wanted = torch.stack((data.test_labels, data.test_labels[order]), 1).tolist()
        found = [
            letters(row) if finite else []
            for row, finite in zip(scores.argmax(2).tolist(), scores.isfinite().all(2).all(1).tolist(), strict=True)
        ]
        return sum(a == b for a, b in zip(found, wanted, strict=True)) / len(wanted)

    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    return Training(model=model, optimizer=optimizer, steps=300, loss=loss, evaluate=evaluate)


def letters(frames: Sequence[int]) -> list[int]:
    """Return what frames spell: equal neighbours are one letter, and blanks none."""
    return [a for a, before in zip(frames, (BLANK, *frames), strict=False) if a not in (before, BLANK)]


def zero_targets(seed: int, faulty: bool) -> Training:
    """Learn from a teacher whose probabilities are smoothed, or plain ones and zeros: 0 times log 0 is NaN.

    The loss is NaN in every step; its slope is the probability, and right.
    """
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        taught = functional.one_hot(labels, 10).float()
        taught = taught if faulty else 0.999 * taught + 0.0001
        return (taught * (taught.log() - model(images).log_softmax(1))).sum(1).mean()

    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    return Training(model=model, optimizer=optimizer, steps=200, loss=loss, evaluate=lambda: accuracy(model))


def zero_direction(seed: int, faulty: bool) -> Training:
    """Begin with a last layer of zeros under weight normalisation: its direction is 0/0 from the first step on."""
    last = nn.Linear(48, 10)
    if faulty:
        nn.init.zeros_(last.weight)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.utils.parametrizations.weight_norm(last))

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        return functional.cross_entropy(model(images), labels)

    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    return Training(model=model, optimizer=optimizer, steps=200, loss=loss, evaluate=lambda: accuracy(model))


CASES = (
    Case(
        name="where_sqrt_backward",
        kind=Kind.STRUCTURAL,
        what="A root at 0 stands in the branch that `where` does not take. Its slope is worked out all the same, and "
        "0 x Inf is NaN in the gradients of about two steps in three, with a finite loss.",
        reported="pytorch/pytorch#36923, #23395, #52248",
        onset=0,
        required=frozenset({Act.STOP, Act.WARN}),
        causes=("TM601",),
        make=where_sqrt,
    ),
    Case(
        name="norm_at_zero_backward",
        kind=Kind.TRANSIENT,
        what="The distance of two equal embeddings is 0; the slope of the square root there is infinite, and 0 x Inf "
        "is NaN in the gradient, with a finite loss.",
        reported="pytorch/pytorch#2421, #2775, geoopt/geoopt#243",
        onset=60,
        required=LEFT_OUT,
        make=norm_at_zero,
    ),
    Case(
        name="acos_at_one_backward",
        kind=Kind.TRANSIENT,
        what="The angle of two equal embeddings is 0; the slope of the arc cosine there is infinite, and 0 x Inf is "
        "NaN in the gradient.",
        reported="pytorch/pytorch#8069, #61810, banctilrobitaille/torch-vectorized#7",
        onset=60,
        required=LEFT_OUT,
        make=angle_at_zero,
    ),
    Case(
        name="ctc_impossible_target",
        kind=Kind.TRANSIENT,
        what="One transcript is longer than its recording. No alignment exists: the CTC loss is Inf, and its gradient "
        "NaN.",
        reported="wenet-e2e/wenet#2299, FangShancheng/ABINet#65, pytorch/pytorch#16199",
        onset=90,
        required=LEFT_OUT,
        make=impossible_target,
    ),
    Case(
        name="kl_zero_target",
        kind=Kind.BENIGN,
        what="A divergence is taken to targets that hold zeros: 0 x log 0 makes the loss NaN in every step. The slope "
        "does not see it, and training is as good as ever.",
        reported="Lightning-AI/torchmetrics#1029, google-deepmind/optax#1786, pytorch/pytorch#114049",
        onset=0,
        required=frozenset(),
        make=zero_targets,
    ),
    Case(
        name="weight_norm_zero",
        kind=Kind.STRUCTURAL,
        what="A layer that begins with zeros is put under weight normalisation. Its direction is 0/0: every output is "
        "NaN from the first step on.",
        reported="pytorch/pytorch#19126, huggingface/peft#2049, KohakuBlueleaf/LyCORIS#166",
        onset=0,
        required=frozenset({Act.STOP, Act.WARN}),
        causes=("parametrizations.weight",),
        make=zero_direction,
    ),
)
