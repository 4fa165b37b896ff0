"""What goes wrong from step to step: rates, moments, scales, weights that run away."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.faults.case import Case, Kind
from benchmarks.faults.tasks import BATCH, accuracy, batch, digits, explained, generator
from benchmarks.faults.training import Act, Training

LEFT_OUT = frozenset({Act.REFUSE, Act.UNDO})
TAKEN_BACK = frozenset({Act.ROLL_BACK, Act.LOWER_RATE, Act.UNDO, Act.STOP})
EXPLAINED = frozenset({Act.WARN, Act.STOP})


def _perceptron(deep: int = 1) -> nn.Sequential:
    hidden = [layer for _ in range(deep) for layer in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(64, 10))


def _sgd(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), rate, momentum=0.9)


def _classifier(seed: int, broken: int | None, rate: float) -> Training:
    """Train by SGD on digits; the images of one batch are negatives of themselves, in another unit.

    Args:
        seed: Of the batches.
        broken: The step of that batch.
        rate: The learning rate.
    """
    model = _perceptron(2)

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        if step == broken:
            images = 255 * (1 - images)
        return functional.cross_entropy(model(images), labels)

    return Training(model=model, optimizer=_sgd(model, rate), steps=250, loss=loss, evaluate=lambda: accuracy(model))


def loss_spike(seed: int, faulty: bool) -> Training:
    """Give one bad batch to a trained net: finite, and its one step throws the weights far away."""
    return _classifier(seed, 150 if faulty else None, 0.05)


def dead_relu(seed: int, faulty: bool) -> Training:
    """Give the bad batch at the very beginning: after its step no unit is above zero for any image."""
    return _classifier(seed, 8 if faulty else None, 0.05)


def adam_moment_frozen(seed: int, faulty: bool) -> Training:
    """Give Adam one batch in so large a unit that squares of its finite gradients are Inf: weights never move again."""
    model = _perceptron()

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        if faulty and step == 10:
            images *= 1e24
        return functional.cross_entropy(model(images), labels)

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return Training(model=model, optimizer=optimizer, steps=250, loss=loss, evaluate=lambda: accuracy(model))


def scaler_collapse(seed: int, faulty: bool) -> Training:
    """Divide by a sum plus an epsilon that float16 does not have, in a loop with a GradScaler.

    From step 30 on the data are of a part with blank images in each batch: 0/0, whatever the scale.
    """
    model = _perceptron()

    def standardised(images: Tensor) -> Tensor:
        images = images.half()
        return 16 * images / (images.sum(1, keepdim=True) + 1e-8)

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        if faulty and step >= 30:
            images[: BATCH // 8] = 0
        with torch.autocast("cpu", torch.float16):
            scores = model(standardised(images))
        return functional.cross_entropy(scores.float(), labels)

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return Training(
        model=model,
        optimizer=optimizer,
        steps=220,
        loss=loss,
        evaluate=lambda: accuracy(model, lambda images: model(standardised(images).float())),
        scaler=torch.amp.GradScaler("cpu"),
    )


def lr_divergence(seed: int, faulty: bool) -> Training:
    """Warm the rate of a regression up to more than its curvature allows: errors grow by a factor each step."""
    model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10))
    optimizer = _sgd(model, 1.0)
    highest = 1.2 if faulty else 0.12
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: highest * min((step + 1) / 100, 1))

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        return (model(images) - functional.one_hot(labels, 10)).square().sum(1).mean()

    return Training(
        model=model, optimizer=optimizer, steps=300, loss=loss, evaluate=lambda: accuracy(model), scheduler=scheduler
    )


def lr_jump(seed: int, faulty: bool) -> Training:
    """Resume the schedule wrongly: at step 150 the rate is a hundred times what it was, and stays there."""
    model = _perceptron(2)
    optimizer = _sgd(model, 0.02)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 100 if faulty and step >= 150 else 1)

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        return functional.cross_entropy(model(images), labels)

    return Training(
        model=model, optimizer=optimizer, steps=250, loss=loss, evaluate=lambda: accuracy(model), scheduler=scheduler
    )


def bit_flip(seed: int, faulty: bool) -> Training:
    """Flip the highest bit of one weight's exponent, as faulty memory does: 0.3 becomes 1e38."""
    model = _perceptron(2)
    weights = model[2].weight

    def between(step: int) -> None:
        if faulty and step == 150:
            bits = weights.data.view(torch.int32).view(-1)
            bits[weights.data.abs().argmax()] ^= 1 << 30

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        return functional.cross_entropy(model(images), labels)

    return Training(
        model=model,
        optimizer=_sgd(model, 0.05),
        steps=250,
        loss=loss,
        evaluate=lambda: accuracy(model),
        between=between,
    )


def gaussian_collapse(seed: int, faulty: bool) -> Training:
    """Predict a mean and an unbounded log-deviation; a quarter of each batch is padding.

    Blank images with a target of exactly 0: their deviation shrinks for ever, and the slope grows with
    its inverse square.
    """
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    of_points = 0.3 * torch.randn(64, generator=generator(seed, 0, 1))

    def loss(step: int) -> Tensor:
        images, _ = batch(seed, step)
        noise = 0.5 * torch.randn(BATCH, generator=generator(seed, step, 2))
        if faulty and step >= 100:
            images[:8], noise[:8] = 0, 0
        mean, log_deviation = model(images).unbind(1)
        off = (images @ of_points + noise - mean) / log_deviation.exp()
        return (off.square() / 2 + log_deviation).mean()

    def evaluate() -> float:
        images = digits().test_images
        with torch.no_grad():
            return explained(model(images)[:, 0], images @ of_points)

    return Training(model=model, optimizer=_sgd(model, 0.008), steps=400, loss=loss, evaluate=evaluate)


class TwoHeads(nn.Module):
    """Says whether a digit is odd, and which one it is, under autocast to float16."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.odd, self.which = nn.Linear(64, 64), nn.Linear(64, 2), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.float16):
            seen = functional.relu(self.body(images))
            odd, which = self.odd(seen), self.which(seen)
        return odd.float(), which.float()


def half_underflow(seed: int, faulty: bool) -> Training:
    """Train under autocast to float16 without a GradScaler; the gradients of a loss of small weight round to zero."""
    model = TwoHeads()

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        odd, which = model(images)
        return functional.cross_entropy(odd, labels % 2) + 1e-6 * functional.cross_entropy(which, labels)

    return Training(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), 3e-3, eps=1e-12),
        steps=200,
        loss=loss,
        evaluate=lambda: accuracy(model, lambda images: model(images)[1]),
        scaler=None if faulty else torch.amp.GradScaler("cpu"),
    )


CASES = (
    Case(
        name="loss_spike",
        kind=Kind.TRANSIENT,
        what="One batch of negatives in another unit reaches a trained net: loss and gradients are finite and a "
        "thousand times too large, and one step throws the weights far away.",
        reported="karpathy/llm.c#637; the PaLM report, section 5.1",
        onset=150,
        required=LEFT_OUT,
        make=loss_spike,
    ),
    Case(
        name="dead_relu",
        kind=Kind.TRANSIENT,
        what="The same batch comes as the ninth of the run: after its step no unit is above zero for any image, and "
        "the loss stays at the logarithm of ten for ever.",
        reported="keras-team/keras#7057",
        onset=8,
        required=LEFT_OUT,
        make=dead_relu,
    ),
    Case(
        name="adam_moment_frozen",
        kind=Kind.LATENT,
        what="Gradients of one batch are finite, and their squares are not: Adam's second moment is Inf, and the "
        "weights that it belongs to never move again.",
        reported="pytorch/pytorch#1767, #8035, rlevo#184",
        onset=10,
        required=frozenset({Act.UNDO, Act.REPAIR}),
        make=adam_moment_frozen,
    ),
    Case(
        name="scaler_collapse",
        kind=Kind.STRUCTURAL,
        what="An epsilon of 1e-8 is 0 in float16, and each batch of a part of the data holds blank images: 0/0 at any "
        "scale. GradScaler halves its scale to nothing and skips every step, without a word.",
        reported="Junjue-Wang/FactSeg#6, deepspeedai/DeepSpeedExamples#418, deepspeedai/DeepSpeed#1773, #8415",
        onset=30,
        required=EXPLAINED,
        causes=("TM603", "in the set-up"),
        make=scaler_collapse,
    ),
    Case(
        name="half_underflow",
        kind=Kind.STRUCTURAL,
        what="Autocast to float16 without a GradScaler: the gradients of a loss of small weight are below the smallest "
        "float16 and round to zero. One head learns, and the other never does.",
        reported="engichang1467/Open-Rig3R#35, tensorflow/tensorflow#38357",
        onset=0,
        required=EXPLAINED,
        causes=("underflow", "TM608"),
        make=half_underflow,
    ),
    Case(
        name="lr_divergence",
        kind=Kind.RUNAWAY,
        what="The learning rate of a regression is warmed up to ten times what it bears: errors grow by a factor each "
        "step, to Inf.",
        reported="facebookresearch/fairseq#282, YunYang1994/TensorFlow2.0-Examples#8, rbgirshick/py-faster-rcnn#266",
        onset=0,
        required=TAKEN_BACK,
        make=lr_divergence,
    ),
    Case(
        name="lr_jump",
        kind=Kind.RUNAWAY,
        what="A schedule that was resumed wrongly makes the rate a hundred times what it was, and leaves it there.",
        reported="pytorch/pytorch#60265, ultralytics/yolov5#292",
        onset=150,
        required=TAKEN_BACK,
        make=lr_jump,
        loses_because="Each return replays the schedule up to its jump, so that half the run goes by before the rate "
        "is halved often enough; the bench ends its run there, whatever state that leaves.",
    ),
    Case(
        name="bit_flip",
        kind=Kind.RUNAWAY,
        what="The highest bit of one weight's exponent flips in memory: 0.3 becomes 1e38, and every step after it "
        "overflows.",
        reported="ggml-org/llama.cpp#16945, tenstorrent/tt-metal#20940",
        onset=150,
        required=frozenset({Act.ROLL_BACK}),
        make=bit_flip,
    ),
    Case(
        name="gaussian_collapse",
        kind=Kind.RUNAWAY,
        what="A predicted deviation is unbounded, and a quarter of each batch is padding with a target of exactly 0: "
        "it shrinks for ever, and the slope of the likelihood grows with its inverse square.",
        reported="Linear95/CLUB#27, yaringal/multi-task-learning-example#14, ethanhe42/KL-Loss#4",
        onset=100,
        required=TAKEN_BACK,
        make=gaussian_collapse,
        loses_because="With one seed of three no step stands out: the likelihood falls for a hundred steps, jumps to a "
        "usual value, and stays bad. Without an outlier the guard does not take a worse loss for a fault.",
    ),
)
