"""Statistics of BatchNorm that the forward pass damages, whatever becomes of the step."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.faults.case import Case, Kind
from benchmarks.faults.tasks import accuracy, batch, generator
from benchmarks.faults.training import Act, Training

UNDONE = frozenset({Act.UNDO, Act.REPAIR})
TOLD = frozenset({Act.WARN, Act.REPAIR, Act.UNDO, Act.STOP})


def perceptron(momentum: float | None = 0.1) -> nn.Sequential:
    """Return a classifier of digits with two BatchNorm layers."""
    return nn.Sequential(
        nn.Linear(64, 64), nn.BatchNorm1d(64, momentum=momentum), nn.ReLU(),
        nn.Linear(64, 64), nn.BatchNorm1d(64, momentum=momentum), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip


Damage = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""What happens to images and labels of a step."""


def classifier(seed: int, model: nn.Module, steps: int = 200, damage: Damage | None = None) -> Training:
    """Train a classifier of digits by AdamW."""

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        if damage is not None:
            images, labels = damage(step, images, labels)
        return functional.cross_entropy(model(images), labels)

    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    return Training(model=model, optimizer=optimizer, steps=steps, loss=loss, evaluate=lambda: accuracy(model))


class SparseNorm(nn.BatchNorm1d):
    """Normalises the active sites of a batch by the kernel itself, as libraries for sparse data do: without the check
    of how many there are."""

    def forward(self, sites: Tensor) -> Tensor:
        return torch.batch_norm(
            sites, self.weight, self.bias, self.running_mean, self.running_var, self.training, self.momentum, self.eps,
            False,
        )  # fmt: skip


def one_value(seed: int, faulty: bool) -> Training:
    """Leave a single site in two batches: the unbiased variance of one value is 0/0, and goes into running_var only."""
    model = nn.Sequential(nn.Linear(64, 64), SparseNorm(64), nn.ReLU(), nn.Linear(64, 10))

    def damage(step: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        left = 1 if faulty and step in (80, 150) else len(images)
        return images[:left], labels[:left]

    return classifier(seed, model, damage=damage)


def outlier_finite(seed: int, faulty: bool) -> Training:
    """Give one image of one batch in another unit, with a slow momentum, twenty steps before the end."""
    model = perceptron(momentum=0.01)

    def damage(step: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if faulty and step == 180:
            images[0] *= 65535
        return images, labels

    return classifier(seed, model, damage=damage)


class Half(nn.Module):
    """Runs a network in float16 by autocast, as a loop with mixed precision does."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.float16):
            out: Tensor = self.inner(images)
        return out.float()


def amp_overflow(seed: int, faulty: bool) -> Training:
    """Let two batches hold a saturated frame: it fits into float16, and a sum of 64 of its points does not."""
    model = Half(perceptron())

    def damage(step: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if faulty and step in (80, 81):
            images[0] = 60000
        return images, labels

    training = classifier(seed, model, damage=damage)
    training.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    return training


def nan_sample(seed: int, faulty: bool) -> Training:
    """Stretch each image from its darkest to its brightest point; one is blank, and 0/0."""

    def damage(step: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if faulty and step in (80, 81):
            images[0] = 0
        low, high = images.amin(1, keepdim=True), images.amax(1, keepdim=True)
        return (images - low) / (high - low), labels

    return classifier(seed, perceptron(), damage=damage)


def dry_run(seed: int, faulty: bool) -> Training:
    """Train a head on a pretrained backbone, after a forward pass in training mode that asked for shapes.

    The probe's memory was never written: random bits read as float32 stand for it.
    """
    backbone, head = perceptron()[:-1], nn.Linear(64, 10)
    pretrained = classifier(seed + 100, nn.Sequential(backbone, nn.Linear(64, 10)), steps=150)
    for step in range(pretrained.steps):
        pretrained.optimizer.zero_grad()
        pretrained.loss(step).backward()
        pretrained.optimizer.step()
    if faulty:
        bits = torch.randint(-(2**31), 2**31, (4, 64), generator=generator(seed), dtype=torch.int64)
        with torch.no_grad():
            backbone(bits.to(torch.int32).view(torch.float32))
    backbone.eval().requires_grad_(False)
    model = nn.Sequential(backbone, head)
    training = classifier(seed, model)
    training.optimizer = torch.optim.AdamW(head.parameters(), 3e-3)
    return training


def outlier_inf(seed: int, faulty: bool) -> Training:
    """Give one point of one image a fill value of 1e22: the variance of its batch overflows in float32."""

    def damage(step: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if faulty and step == 80:
            images[0, 20] = 1e22
        return images, labels

    return classifier(seed, perceptron(), damage=damage)


def half_overflow(seed: int, faulty: bool) -> Training:
    """Normalise raw readings of up to 1000 by a BatchNorm in float16, or in the twin in float32.

    Their variance is above 65504, the largest float16; the kernel works it out in float32, and stores Inf.
    """
    norm, rest = nn.BatchNorm1d(64), nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).half()
    model = nn.Sequential(norm.half() if faulty else norm, rest)

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        return functional.cross_entropy(model((images * 1000).half()).float(), labels)

    optimizer = torch.optim.Adam(model.parameters(), 3e-3, eps=1e-4)
    return Training(
        model=model,
        optimizer=optimizer,
        steps=200,
        loss=loss,
        evaluate=lambda: accuracy(model, lambda images: model((images * 1000).half())),
    )


def negative_variance(seed: int, faulty: bool) -> Training:
    """Go on from the present state half as far again as from an early one; in the twin only with the weights.

    Running variances that have become smaller go below zero, which is finite, and NaN under a root.
    """
    model = perceptron()
    training = classifier(seed, model)
    early: dict[str, Tensor] = {}

    def merge(step: int) -> None:
        if step == 5:
            early.update({name: each.clone() for name, each in model.state_dict().items()})
        if step == training.steps - 1:
            for name, each in model.state_dict().items():
                if each.is_floating_point() and (faulty or "running" not in name):
                    each.add_(each - early[name], alpha=0.5)

    training.between = merge
    return training


def frozen(seed: int, faulty: bool) -> Training:
    """Train a second head for darker images on a frozen backbone, whose statistics follow them in training mode.

    The first head, for images as they were, is what is evaluated: nobody meant to change anything that it uses.
    """
    backbone, first, second = perceptron()[:-1], nn.Linear(64, 10), nn.Linear(64, 10)
    pretrained = classifier(seed + 100, nn.Sequential(backbone, first), steps=150)
    for step in range(pretrained.steps):
        pretrained.optimizer.zero_grad()
        pretrained.loss(step).backward()
        pretrained.optimizer.step()
    backbone.requires_grad_(False)
    first.requires_grad_(False)
    model = nn.ModuleDict({"backbone": backbone.train(faulty), "first": first, "second": second})

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        return functional.cross_entropy(second(backbone(0.2 * images)), labels)

    return Training(
        model=model,
        optimizer=torch.optim.AdamW(second.parameters(), 3e-3),
        steps=150,
        loss=loss,
        evaluate=lambda: accuracy(model, lambda images: first(backbone(images))),
    )


CASES = (
    Case(
        name="bn_amp_overflow",
        kind=Kind.LATENT,
        what="A linear layer overflows in float16, and BatchNorm takes Inf into its statistics in the forward pass. "
        "The GradScaler leaves the step out; evaluation is NaN for ever.",
        reported="pytorch/pytorch#90342, #88474, #96798",
        onset=80,
        required=UNDONE,
        make=amp_overflow,
    ),
    Case(
        name="bn_nan_sample",
        kind=Kind.LATENT,
        what="A blank image is stretched from its minimum to its maximum: 0/0. A loop that leaves out the NaN loss "
        "leaves the NaN in BatchNorm's statistics.",
        reported="avalonstrel/GatedConvolution_pytorch#27, prs-eth/Marigold#111, dusty-nv/jetson-inference#1629",
        onset=80,
        required=UNDONE,
        make=nan_sample,
    ),
    Case(
        name="bn_one_value_per_channel",
        kind=Kind.LATENT,
        what="Two batches have one active site. The unbiased variance of one value is 0/0; it goes into running_var "
        "only, so that training is fine and evaluation is NaN.",
        reported="facebookresearch/SparseConvNet#190, #105, pytorch/pytorch#1381",
        onset=80,
        required=UNDONE,
        make=one_value,
    ),
    Case(
        name="bn_dryrun_uninitialised",
        kind=Kind.STRUCTURAL,
        what="A probe for shapes sends uninitialised memory through a pretrained backbone in training mode. Its "
        "statistics are garbage before the first step, and each batch is NaN.",
        reported="open-edge-platform/anomalib#2965, #2966",
        onset=0,
        required=TOLD,
        causes=("TM101", "TM102", "running_"),
        make=dry_run,
    ),
    Case(
        name="bn_outlier_inf_var",
        kind=Kind.LATENT,
        what="One point of one image holds a fill value of 1e22. The variance of the batch overflows; running_var is "
        "Inf for ever, training goes on, and evaluation does not depend on the image.",
        reported="pytorch/pytorch#1206, #90342",
        onset=80,
        required=UNDONE,
        make=outlier_inf,
    ),
    Case(
        name="bn_outlier_finite",
        kind=Kind.SILENT,
        what="One image of one batch comes in another unit: large, and finite. Its variance stays in slow running "
        "statistics for hundreds of steps, and evaluation divides by it.",
        reported="pytorch/pytorch#4741, #90342",
        onset=180,
        required=TOLD,
        causes=("TM604", "TM607", "TM105"),
        make=outlier_finite,
    ),
    Case(
        name="bn_half_overflow",
        kind=Kind.SILENT,
        what="A BatchNorm layer cast to float16 meets a variance above 65504. Training is fine; running_var is Inf, "
        "and evaluation silently sets the channel to a constant.",
        reported="apple/coreai-torch#54, pytorch/pytorch#126525, fastai/fastai#507",
        onset=0,
        required=TOLD,
        causes=("running statistics in float16", "running_var"),
        make=half_overflow,
    ),
    Case(
        name="bn_negative_var",
        kind=Kind.SILENT,
        what="Two states are extrapolated, buffers included. Running variances go below zero: all is finite that is "
        "stored, and evaluation is NaN.",
        reported="pytorch/pytorch#106605",
        onset=199,
        required=TOLD,
        causes=("TM103", "statistics before an evaluation"),
        make=negative_variance,
    ),
    Case(
        name="bn_frozen_statistics",
        kind=Kind.SILENT,
        what="A backbone is frozen by requires_grad=False and stays in training mode. Its statistics follow the new "
        "data, and the old task that shares it is lost.",
        reported="pytorch/pytorch#86590, kdexd/virtex#16, Lightning-AI/pytorch-lightning#15063",
        onset=0,
        required=TOLD,
        causes=("its weights are frozen",),
        make=frozen,
    ),
)
