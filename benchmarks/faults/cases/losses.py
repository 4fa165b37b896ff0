"""Losses that are undefined for some batches: 0/0, the logarithm of 0, an exponential too large."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.faults.case import Case, Kind, Make
from benchmarks.faults.tasks import BATCH, accuracy, batch, digits, explained, generator
from benchmarks.faults.training import Act, Training

LEFT_OUT = frozenset({Act.REFUSE, Act.UNDO})
BAD = (70, 110, 150)
"""The steps with a bad batch, of those cases that have several."""


class RowReader(nn.Module):
    """Reads a digit as eight tokens, its rows, by self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.place = nn.Parameter(0.1 * torch.randn(8, 32))
        self.attend = nn.MultiheadAttention(32, 2, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor, absent: Tensor | None = None) -> Tensor:
        rows = self.embed(images.view(-1, 8, 8)) + self.place
        seen, _ = self.attend(rows, rows, rows, key_padding_mask=absent)
        return self.head(functional.relu(rows + seen).amax(1))


def attn_full_mask(seed: int, faulty: bool) -> Training:
    """Train attention on rows, of which some are padding; three batches hold an example of padding alone."""
    model = RowReader()

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        absent = torch.zeros(BATCH, 8, dtype=torch.bool)
        absent[:, -1] = torch.rand(BATCH, generator=generator(seed, step, 1)) < 0.2
        if faulty and step in BAD:
            absent[3] = True
        return functional.cross_entropy(model(images, absent), labels)

    return _classifying(model, loss)


def ce_all_ignored(seed: int, faulty: bool) -> Training:
    """Train on digits, of which a third are not labelled; in some batches none is."""
    model = _perceptron()

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        labels[torch.rand(BATCH, generator=generator(seed, step, 1)) < 0.3] = -100
        if faulty and step in (60, *BAD):
            labels[:] = -100
        return functional.cross_entropy(model(images), labels, ignore_index=-100)

    return _classifying(model, loss)


def masked_mean_zero(seed: int, faulty: bool) -> Training:
    """Average the loss over examples that a mask keeps, by hand; in some batches it keeps none."""
    model = _perceptron()

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        kept = torch.rand(BATCH, generator=generator(seed, step, 1)) < 0.7
        if faulty and step in BAD:
            kept[:] = False
        each = functional.cross_entropy(model(images), labels, reduction="none")
        return (each * kept).sum() / kept.sum()

    return _classifying(model, loss)


def _bandit(seed: int, size: int, played: int | None, unpaid: int | None) -> Training:
    """Learn odd from even by reward alone: guess, and be paid 1 for a right guess; advantages are standardised.

    Args:
        seed: Of the draws.
        size: Guesses in a batch.
        played: The step whose batch has one guess.
        unpaid: The step in which nobody is paid.
    """
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step, 1 if step == played else size)
        log_chance = model(images).log_softmax(1)
        noise = -torch.rand(log_chance.shape, generator=generator(seed, step, 1)).log()
        guess = (log_chance.detach() - noise.log()).argmax(1, keepdim=True)
        reward = (guess[:, 0] == labels % 2).float() * (step != unpaid)
        advantage = (reward - reward.mean()) / reward.std()
        return -(advantage * log_chance.gather(1, guess)[:, 0]).mean()

    def evaluate() -> float:
        with torch.no_grad():
            scores = model(digits().test_images)
        right = (scores.argmax(1) == digits().test_labels % 2) & scores.isfinite().all(1)
        return float(right.float().mean())

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return Training(model=model, optimizer=optimizer, steps=300, loss=loss, evaluate=evaluate)


def std_of_one(seed: int, faulty: bool) -> Training:
    """Leave one guess in the last batch of an epoch: the unbiased deviation of one value is NaN."""
    return _bandit(seed, 128, 180 if faulty else None, None)


def advantage_std_zero(seed: int, faulty: bool) -> Training:
    """Pay nobody in one batch, as when the judge is down: all advantages are 0/0."""
    return _bandit(seed, 128, None, 180 if faulty else None)


def softmax_log_zero(seed: int, faulty: bool) -> Training:
    """Smooth labels by hand, with the logarithm of a softmax; three batches hold an image in another unit.

    Its scores are hundreds apart, so that the softmax of most classes is 0 in float32.
    """
    model = _perceptron()

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        if faulty and step in BAD:
            images[0] *= 255
        wanted = 0.9 * functional.one_hot(labels, 10) + 0.01
        return -(wanted * model(images).softmax(1).log()).sum(1).mean()

    return _classifying(model, loss)


def cosine_zero_vector(seed: int, faulty: bool) -> Training:
    """Compare digits with class vectors by cosine, without an epsilon; three batches hold a blank image."""
    encode = nn.Sequential(nn.Linear(64, 48, bias=False), nn.ReLU(), nn.Linear(48, 32, bias=False))
    classes = nn.Linear(32, 10, bias=False)
    model = nn.Sequential(encode, classes)

    def scores(images: Tensor) -> Tensor:
        found = encode(images)
        ours, theirs = found.norm(dim=1, keepdim=True), classes.weight.norm(dim=1)
        return 10 * (found @ classes.weight.T) / (ours * theirs)

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        if faulty and step in BAD:
            images[5] = 0
        return functional.cross_entropy(scores(images), labels)

    training = _classifying(model, loss)
    training.evaluate = lambda: accuracy(model, scores)
    return training


def nodata_sample(seed: int, faulty: bool) -> Training:
    """Train on tiles of which some are lost: their points hold float32's lowest number, as maps mark "no data"."""
    model = _perceptron()

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        if faulty and step in BAD:
            images[2, :32] = torch.finfo(torch.float32).min
        return functional.cross_entropy(model(images), labels)

    return _classifying(model, loss)


def accum_nan_microbatch(seed: int, faulty: bool) -> Training:
    """Accumulate four micro-batches of images that are standardised one by one; a silent one is divided 0 by 0."""
    model = _perceptron()

    def loss(part: int) -> Tensor:
        images, labels = batch(seed, part, 8)
        if faulty and part in (4 * BAD[0] + 1, 4 * BAD[1] + 2):
            images[0] = 0.25
        images = (images - images.mean(1, keepdim=True)) / images.std(1, keepdim=True)
        return functional.cross_entropy(model(images), labels)

    def scores(images: Tensor) -> Tensor:
        return model((images - images.mean(1, keepdim=True)) / images.std(1, keepdim=True))

    training = _classifying(model, loss)
    training.accumulate = 4
    training.evaluate = lambda: accuracy(model, scores)
    return training


def clip_inf_element(seed: int, faulty: bool) -> Training:
    """Name digits and predict a rate for each, by a Poisson regression beside the classifier; gradients are clipped.

    One image comes in another unit. The exponential of its rate is Inf, and so are the gradients of the regression.
    Clipping multiplies by limit/Inf = 0: finite gradients become 0, and Inf becomes NaN.
    """
    classify, predict = nn.Linear(64, 10), nn.Linear(64, 1)
    model = nn.ModuleList([classify, predict])
    of_points = 0.1 * torch.rand(64, generator=generator(seed, 0, 1))

    def rates(images: Tensor) -> Tensor:
        return (images @ of_points).exp()

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        images = images + 0.05  # the scanner's dark current: no point is exactly 0
        wanted = rates(images)
        if faulty and step in BAD:
            images[0] *= 255
        return functional.cross_entropy(classify(images), labels) + 0.1 * functional.poisson_nll_loss(
            predict(images)[:, 0], wanted
        )

    def evaluate() -> float:
        images = digits().test_images + 0.05
        with torch.no_grad():
            right = explained(predict(images)[:, 0].exp(), rates(images))
        return (accuracy(model, lambda images: classify(images + 0.05)) + right) / 2

    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return Training(model=model, optimizer=optimizer, steps=300, loss=loss, evaluate=evaluate, clip=5.0)


def log_filter_hides_nan(seed: int, faulty: bool) -> Training:
    """Stop at a NaN in the log, which shows the last finite loss in its place: the loop trains on with NaN weights."""
    model = _perceptron()
    logged: list[float] = []

    def between(step: int) -> None:
        if logged and math.isnan(logged[-1]):
            raise RuntimeError(f"the loss is NaN at step {step}")

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        kept = torch.rand(BATCH, generator=generator(seed, step, 1)) < 0.7
        if faulty and step == BAD[0]:
            kept[:] = False
        each = functional.cross_entropy(model(images), labels, reduction="none")
        found = (each * kept).sum() / kept.sum()
        value = found.item()
        logged.append(value if math.isfinite(value) else sum(logged) / len(logged))
        return found

    training = _classifying(model, loss)
    training.between = between
    return training


def _perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def _classifying(model: nn.Module, loss: Callable[[int], Tensor], steps: int = 200, rate: float = 3e-3) -> Training:
    optimizer = torch.optim.Adam(model.parameters(), rate)
    return Training(model=model, optimizer=optimizer, steps=steps, loss=loss, evaluate=lambda: accuracy(model))


def _transient(name: str, what: str, reported: str, make: Make, onset: int = BAD[0]) -> Case:
    return Case(name=name, kind=Kind.TRANSIENT, what=what, reported=reported, onset=onset, required=LEFT_OUT, make=make)


CASES = (
    _transient(
        "attn_full_mask",
        "Three batches hold an example of padding alone: the softmax of scores that are all -Inf is NaN, and so is the "
        "output of attention.",
        "pytorch/pytorch#41508, #40932, #26098",
        attn_full_mask,
    ),
    Case(
        name="ce_all_ignored",
        kind=Kind.BENIGN,
        what="In some batches all targets are ignored: the mean over none is NaN, and the gradients are exactly 0.",
        reported="pytorch/pytorch#70348, #75181, #116349",
        onset=60,
        required=frozenset(),
        make=ce_all_ignored,
    ),
    _transient(
        "masked_mean_zero",
        "A loss is averaged over examples that a mask keeps. In three batches it keeps none: 0/0, in gradients too.",
        "meta-pytorch/torchtune#2341, londonaicentre/FLIP#766, Zhen-Dong/Magic-Me#14",
        masked_mean_zero,
    ),
    _transient(
        "std_of_one",
        "The last batch of an epoch holds a single guess: the unbiased deviation of one advantage is 0/0.",
        "DLR-RM/stable-baselines3#325, #265, #440",
        std_of_one,
        180,
    ),
    _transient(
        "advantage_std_zero",
        "Nobody is paid in one batch: all advantages are equal, and are divided by their deviation of 0.",
        "michaelnny/deep_rl_zoo#17, thu-ml/tianshou#1298",
        advantage_std_zero,
        180,
    ),
    _transient(
        "softmax_log_zero",
        "Smoothed labels meet the logarithm of a softmax. Three batches hold an image in another unit, whose softmax "
        "is 0 for most classes: the logarithm is -Inf, and its slope times 0 is NaN.",
        "allenai/allennlp#2797, dmlc/gluon-cv#942",
        softmax_log_zero,
    ),
    _transient(
        "cosine_zero_vector",
        "A cosine without an epsilon: the embedding of a blank image has length 0, and 0/0 is NaN.",
        "huggingface/sentence-transformers#625, google-deepmind/optax#946",
        cosine_zero_vector,
    ),
    _transient(
        "nodata_sample",
        "Half of an image in three batches holds float32's lowest number, as maps mark what they have no data for: Inf "
        "and NaN after the first layer.",
        "NRCan/geo-deep-learning#68, AppliedDataSciencePartners/WorldModels#14",
        nodata_sample,
    ),
    _transient(
        "accum_nan_microbatch",
        "One of four micro-batches holds a silent example that is standardised by its own deviation of 0; the NaN "
        "stays in the gradients that the other three add to.",
        "espnet/espnet#3283, mflux-community/mflux#447",
        accum_nan_microbatch,
    ),
    _transient(
        "clip_inf_element",
        "An exponential overflows and some gradients are Inf. Clipping multiplies all by limit/Inf = 0: the finite "
        "ones become 0 and Inf becomes NaN.",
        "pytorch/pytorch#46849, #53843, #55169",
        clip_inf_element,
    ),
    _transient(
        "log_filter_hides_nan",
        "A batch without kept examples makes all weights NaN. The log shows the mean of the losses before in place "
        "of a NaN, so that the loop's own stop never comes, and it trains on to the end.",
        "huggingface/trl#6702, huggingface/transformers#13619, #13758",
        log_filter_hides_nan,
    ),
)
