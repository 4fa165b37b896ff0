"""What is finite in float32, and not in float16."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.faults.case import Case, Kind
from benchmarks.faults.tasks import accuracy, batch, digits, explained
from benchmarks.faults.training import Act, Training

BEFORE = 300
"""Steps of a training before it is resumed."""

EXPLAINED = frozenset({Act.WARN, Act.STOP})
LEFT_OUT = frozenset({Act.REFUSE, Act.UNDO})


def adam_eps(seed: int, faulty: bool) -> Training:
    """Train weights in float16 by Adam with the usual epsilon, or in the twin with one that float16 has.

    The borders of the digits are always 0, so the weights there have gradients and moments of exactly zero.
    """
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)).half()

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        return functional.cross_entropy(model(images.half()).float(), labels)

    optimizer = torch.optim.Adam(model.parameters(), 3e-3, eps=1e-8 if faulty else 1e-4)
    return Training(
        model=model,
        optimizer=optimizer,
        steps=200,
        loss=loss,
        evaluate=lambda: accuracy(model, lambda x: model(x.half())),
    )


class Fourier(nn.Module):
    """A block of fast Fourier convolution: transformed in float32, and cast to float16 for the layer that mixes it.

    The first coefficient is the sum of all points, divided by nothing or, with `ortho`, by the root of their number.
    """

    def __init__(self, ortho: bool) -> None:
        super().__init__()
        self.norm = "ortho" if ortho else "backward"
        self.spectrum, self.mix, self.head = nn.Identity(), nn.Linear(2 * 8 * 5, 48), nn.Linear(48, 10)

    def forward(self, images: Tensor) -> Tensor:
        large = (255 * images).reshape(-1, 8, 8).repeat_interleave(4, 1).repeat_interleave(4, 2)
        transformed = torch.fft.rfft2(large, norm=self.norm)[:, :8, :5]
        with torch.autocast("cpu", torch.float16):
            spectrum = self.spectrum(torch.view_as_real(transformed).flatten(1).half())
            hidden = functional.silu(functional.layer_norm(self.mix(spectrum), (48,)))
            return self.head(hidden).float()


def fourier(seed: int, faulty: bool) -> Training:
    """Train a Fourier block on grey values from 0 to 255, 32 x 32: bright images have sums above 65504."""
    model = Fourier(ortho=not faulty)

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        return functional.cross_entropy(model(images), labels)

    return Training(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), 3e-3),
        steps=200,
        loss=loss,
        evaluate=lambda: accuracy(model),
        scaler=torch.amp.GradScaler("cpu", init_scale=256.0),
    )


class FeedForward(nn.Module):
    """Predicts an amount of money in thousands from one in units: its hidden values are as large as the amount."""

    def __init__(self, half: bool) -> None:
        super().__init__()
        self.half = half
        self.up, self.down = nn.Linear(64, 96), nn.Linear(96, 1)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.float16, enabled=self.half):
            amount: Tensor = self.down(functional.relu(self.up(features)))
        return amount.float().squeeze(1) / 1000


def amounts(images: Tensor) -> Tensor:
    """Return what each image is worth, in thousands: up to about 110, by its brightness and its upper half."""
    return 250 * images.mean(1) + 40 * (images[:, :32].mean(1) - images[:, 32:].mean(1))


def headroom(seed: int, faulty: bool) -> Training:
    """Let a network grow towards amounts in whole units: it passes 65504 when it has nearly learned the largest."""
    model = FeedForward(half=faulty)

    def loss(step: int) -> Tensor:
        images, _ = batch(seed, step)
        return functional.mse_loss(model(images), amounts(images)) / 100

    def evaluate() -> float:
        images = digits().test_images
        with torch.no_grad():
            return explained(model(images), amounts(images))

    return Training(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), 0.1),
        steps=300,
        loss=loss,
        evaluate=evaluate,
        scaler=torch.amp.GradScaler("cpu", init_scale=1024.0),
    )


class RmsNorm(nn.Module):
    """Divides rows by the root of their mean square, worked out in the type of the input, or in float32."""

    def __init__(self, width: int, wide: bool) -> None:
        super().__init__()
        self.wide, self.weight = wide, nn.Parameter(torch.ones(width))

    def forward(self, rows: Tensor) -> Tensor:
        values = rows.float() if self.wide else rows
        return self.weight * (values * torch.rsqrt(values.square().mean(1, keepdim=True) + 1e-5)).to(rows.dtype)


def rms_overflow(seed: int, faulty: bool) -> Training:
    """Normalise readings of a 12-bit sensor in float16: a square above 65504 is Inf, and its root divides to zero."""
    model = nn.Sequential(RmsNorm(64, wide=not faulty), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).half()

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        return functional.cross_entropy(model((4095 * images).half()).float(), labels)

    return Training(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), 3e-3, eps=1e-4),
        steps=200,
        loss=loss,
        evaluate=lambda: accuracy(model, lambda images: model((4095 * images).half())),
    )


class Unscaled(nn.Module):
    """A linear layer whose weights are drawn with a deviation of 1; its sum is divided instead."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))

    def forward(self, rows: Tensor) -> Tensor:
        return functional.linear(rows, self.weight) / self.weight.shape[1] ** 0.5


def vanishing(seed: int, faulty: bool) -> Training:
    """Train weights in bfloat16 by AdamW: a step of 0.001 is less than half the distance between those near 1."""
    dtype = torch.bfloat16 if faulty else torch.float32
    model = nn.Sequential(Unscaled(64, 256), nn.ReLU(), Unscaled(256, 10)).to(dtype)

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        return functional.cross_entropy(model(images.to(dtype)).float(), labels)

    return Training(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.0),
        steps=300,
        loss=loss,
        evaluate=lambda: accuracy(model, lambda images: model(images.to(dtype))),
    )


class Words(nn.Module):
    """Looks up each point of an image with its grey value in a table, sums what it finds, and classifies it.

    Most rows of the table are rare: in most steps their gradients are zero.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.EmbeddingBag(64 * 17, 32, mode="mean"), nn.Linear(32, 10)
        self.register_buffer("places", 17 * torch.arange(64))

    def forward(self, images: Tensor) -> Tensor:
        words = (16 * images).round().long() + self.places
        return self.head(functional.relu(self.table(words)))


def resume(seed: int, faulty: bool) -> Training:
    """Go on from a checkpoint whose optimizer state was cast to float16 to make it smaller, and back when loaded.

    Second moments below 3e-8 are 0 then, and the first moments beside them are not: where the gradient is zero, a step
    divides by epsilon alone.
    """
    model = Words()

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        return functional.cross_entropy(model(images), labels)

    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(BEFORE):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
    saved = optimizer.state_dict()
    if faulty:
        for moments in saved["state"].values():
            for name in ("exp_avg", "exp_avg_sq"):
                moments[name] = moments[name].half()
    optimizer.load_state_dict(saved)
    return Training(
        model=model,
        optimizer=optimizer,
        steps=100,
        loss=lambda step: loss(BEFORE + step),
        evaluate=lambda: accuracy(model),
    )


def warm_up(seed: int, faulty: bool) -> Training:
    """Begin with the usual scale of 65536, too large for a loss that is a sum: the scaler finds a smaller one."""
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def loss(step: int) -> Tensor:
        images, labels = batch(seed, step)
        with torch.autocast("cpu", torch.float16):
            return functional.cross_entropy(model(images), labels, reduction="sum")

    return Training(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), 3e-3),
        steps=200,
        loss=loss,
        evaluate=lambda: accuracy(model),
        scaler=torch.amp.GradScaler("cpu", init_scale=65536.0 if faulty else 16.0),
    )


CASES = (
    Case(
        name="fft_fp16_overflow",
        kind=Kind.STRUCTURAL,
        what="A Fourier block casts its spectrum to float16. The first coefficient is the sum of all points, which is "
        "above 65504 for bright images: Inf in nearly every batch.",
        reported="advimman/lama#47, pytorch/pytorch#33485, #40551",
        onset=0,
        required=EXPLAINED,
        causes=("spectrum", "Fourier"),
        make=fourier,
    ),
    Case(
        name="ffn_fp16_headroom",
        kind=Kind.RUNAWAY,
        what="Activations grow towards targets in whole units until they pass 65504, in float16 only. From then on "
        "every batch that holds a large target is lost.",
        reported="huggingface/transformers#5651, #9295, #14189",
        onset=0,
        required=frozenset({Act.WARN, Act.ROLL_BACK, Act.LOWER_RATE, Act.STOP}),
        causes=("TM606",),
        make=headroom,
        loses_because="The guard names the module that is short of headroom 14 steps before it overflows, and does not "
        "change its precision by itself; to go back does not help.",
    ),
    Case(
        name="adam_fp16_eps",
        kind=Kind.STRUCTURAL,
        what="Adam on weights in float16: its epsilon of 1e-8 is 0 there, and a weight whose gradient is zero is "
        "divided 0 by 0. NaN after the first step, with finite gradients.",
        reported="afiaka87/glide-finetune#5, #6, google-deepmind/optax#1754, chainer/chainer#6299",
        onset=0,
        required=EXPLAINED,
        causes=("eps",),
        make=adam_eps,
    ),
    Case(
        name="rmsnorm_fp16_overflow",
        kind=Kind.SILENT,
        what="A normalisation written by hand squares in float16. The square of 300 is Inf there, its root divides "
        "every row to zero, and all that is stored stays finite.",
        reported="pytorch/pytorch#133085, xlite-dev/LeetCUDA#335, nntrainer/nntrainer#3935",
        onset=0,
        required=EXPLAINED,
        causes=("TM606", "TM608", "float16"),
        make=rms_overflow,
        loses_because="The square overflows inside a module that has no modules of its own, where no hook looks, and "
        "what it puts out is finite. Of weights in float16 the guard warns, but so it does in the twin.",
    ),
    Case(
        name="bf16_update_vanishes",
        kind=Kind.SILENT,
        what="Weights are trained in bfloat16 without a copy in float32. Most updates are smaller than half the "
        "distance to the next bfloat16 and are rounded away.",
        reported="workofart/ml-by-hand#85, tianweiy/CausVid#19, google-research/big_vision#41",
        onset=0,
        required=EXPLAINED,
        causes=("TM608", "bfloat16"),
        make=vanishing,
    ),
    Case(
        name="resume_half_moments",
        kind=Kind.SILENT,
        what="A checkpoint keeps Adam's state in float16. Small second moments are zero when it is loaded, and the "
        "first step divides by epsilon: weights are thrown far away, all finite.",
        reported="ultralytics/ultralytics#24085, facebookresearch/fairscale#50",
        onset=0,
        required=frozenset({Act.WARN, Act.STOP, Act.REPAIR, Act.UNDO, Act.ROLL_BACK}),
        causes=("second moment", "TM306", "TM605"),
        make=resume,
    ),
    Case(
        name="amp_warm_up",
        kind=Kind.BENIGN,
        what="The first scale of a GradScaler is too large; it refuses some steps until it has found a smaller one, as "
        "it should.",
        reported="huggingface/transformers#11106, pytorch/pytorch#55585",
        onset=0,
        required=LEFT_OUT,
        make=warm_up,
    ),
)
