"""Faults with a known place: models, batches and losses of their own, to be guarded here and replayed elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

EXAMPLES, WIDTH = 8, 6


@dataclass(frozen=True)
class Fault:
    """A fault, and where it is.

    `loss` takes model and batch; `half` runs it in float16; what is expected follows: the cause, the module, the pass,
    the operation, the guilty examples.
    """

    model: Callable[[], nn.Module]
    batch: Callable[[bool], Any]
    loss: Callable[[Any, Any], Tensor]
    cause: str
    module: str
    operation: str = ""
    backward: bool = False
    samples: tuple[int, ...] = ()
    half: bool = False
    precision: bool = False
    code: str = ""
    spoil: Callable[[nn.Module], None] = field(default=lambda model: None)


def numbers(seed: int = 0) -> Tensor:
    return torch.randn(EXAMPLES, WIDTH, generator=torch.Generator().manual_seed(seed))


def with_row(value: float, row: int = 5) -> Callable[[bool], Tensor]:
    def batch(bad: bool) -> Tensor:
        found = numbers()
        if bad:
            found[row] = value
        return found

    return batch


def mean_loss(model: nn.Module, batch: Any) -> Tensor:
    return model(batch).float().square().mean()


def seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        torch.manual_seed(0)
        return make()

    return made


@seeded
def plain_net() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


@seeded
def no_norm_net() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, 4))


class Root(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.abs().sqrt()


@seeded
def root_net() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 8, bias=False), Root(), nn.Linear(8, 4))


def cosine_loss(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch).sum(1) / batch.norm(dim=1)).mean()


def log_loss(model: nn.Module, batch: Tensor) -> Tensor:
    return -(functional.softmax(model(batch) * 1e3 * batch.abs().amax(), 1).log() * 0.25).mean()


def distance_loss(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch) - model(2 * batch)).square().sum(1).sqrt().mean()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        values, padding = batch["values"], batch["padding"]
        attended, weights = self.inner(values, values, values, key_padding_mask=padding)
        return {"score": self.head(attended), "more": [weights, (attended,)]}


def padded(bad: bool) -> dict[str, Tensor]:
    padding = torch.zeros(EXAMPLES, 3, dtype=torch.bool)
    padding[:, 2] = True
    padding[5] |= bad
    values = torch.randn(EXAMPLES, 3, WIDTH, generator=torch.Generator().manual_seed(0))
    return {"values": values, "padding": padding}


def score_loss(model: nn.Module, batch: Any) -> Tensor:
    return model(batch)["score"].square().mean()


class OutProjection(nn.Module):
    """Overflows in the one part of attention that is never called itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, values: Tensor) -> Tensor:
        values = values[:, None]
        return self.head(self.inner(values, values, values, need_weights=False)[0])


def blow_up_projection(model: Any) -> None:
    with torch.no_grad():
        model.inner.out_proj.weight.mul_(1e5)


class Fourier(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(values.float(), dim=1)
        return torch.view_as_real(spectrum).half().flatten(1)


@seeded
def fourier_net() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 64), Fourier(), nn.Linear(66, 1))


@seeded
def wide_net() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))


def blow_up(model: Any) -> None:
    with torch.no_grad():
        model[1].weight.mul_(1e5)


def poison(model: Any) -> None:
    with torch.no_grad():
        model[3].weight[0, 0] = float("nan")


class Latent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_variance = nn.Linear(WIDTH, 4), nn.Linear(WIDTH, 4)
        self.decoder = nn.Linear(4, WIDTH)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        deviation = self.log_variance(values).exp()
        return self.decoder(self.mean(values) + deviation * torch.randn_like(deviation)), deviation


def latent_loss(model: nn.Module, batch: Tensor) -> Tensor:
    decoded, deviation = model(batch)
    return (decoded - batch).square().mean() + deviation.mean()


class Sparse(nn.Module):
    """Divides by how many numbers a random mask keeps: fails only with the very same random numbers."""

    def forward(self, values: Tensor) -> Tensor:
        kept = (torch.rand_like(values) < 0.25).float()
        return (values * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True)


@seeded
def random_net() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 8), Sparse(), nn.Linear(1, 1))


def zero_direction(model: Any) -> None:
    with torch.no_grad():
        model[0].parametrizations.weight.original1.zero_()


@seeded
def normed_net() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, 8)), nn.Linear(8, 1))


class Shared(nn.Module):
    """Calls one module twice; the second call fails."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Inverse()
        self.again = self.first
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(self.again(self.first(values) - 1.0))


class Inverse(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return 1.0 / values


class WithLoss(nn.Module):
    """Takes keywords and returns its own loss, as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(WIDTH, 4)

    def forward(self, *, values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        scores = self.body(values)
        kept = labels >= 0
        losses = functional.cross_entropy(scores, labels.clamp(min=0), reduction="none") * kept
        return {"loss": losses.sum() / kept.sum(), "scores": scores}


def labelled(bad: bool) -> dict[str, Tensor]:
    labels = torch.arange(EXAMPLES) % 4
    return {"values": numbers(), "labels": torch.full_like(labels, -1) if bad else labels}


def own_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch)["loss"]


FAULTS = {
    "nan_in_the_batch": Fault(
        plain_net, with_row(float("nan")), mean_loss, "input", "", samples=(5,), code="TM701"
    ),
    "outlier": Fault(
        plain_net, with_row(1e30), mean_loss, "module", "1", "native_batch_norm", samples=(5,), code="TM702",
        precision=True,
    ),
    "zero_vector_in_the_loss": Fault(
        no_norm_net, with_row(0.0), cosine_loss, "loss", "2", "div", samples=(5,), code="TM706",
    ),
    "log_of_zero_in_the_loss": Fault(
        no_norm_net, with_row(1e3), log_loss, "loss", "2", "log", code="TM707",
    ),
    "distance_of_zero_in_the_loss": Fault(
        no_norm_net, with_row(0.0), distance_loss, "loss", "2", "sqrt", backward=True, samples=(5,), code="TM708",
    ),
    "root_of_zero_backward": Fault(
        root_net, with_row(0.0), mean_loss, "module", "1", "sqrt", backward=True, samples=(5,), code="TM708"
    ),
    "row_fully_masked": Fault(
        seeded(Attention), padded, score_loss, "module", "inner", "softmax", samples=(5,), code="TM709"
    ),
    "projection_never_called": Fault(
        seeded(OutProjection), with_row(1.0), mean_loss, "module", "inner", "addmm", half=True, precision=True,
        code="TM704", spoil=blow_up_projection,
    ),
    "spectrum_in_float16": Fault(
        fourier_net, with_row(3e4), mean_loss, "module", "1", "to_copy", half=True, samples=(5,), precision=True,
    ),
    "linear_in_float16": Fault(
        wide_net, with_row(1.0), mean_loss, "module", "1", "addmm", half=True, precision=True, code="TM704",
        spoil=blow_up,
    ),
    "weight_poisoned": Fault(
        plain_net, with_row(1.0), mean_loss, "parameter", "3.weight", code="TM703", spoil=poison
    ),
    "exponential": Fault(
        seeded(Latent), with_row(1e4), latent_loss, "module", "Latent", "exp", samples=(5,)
    ),
    "random_mask": Fault(random_net, with_row(1.0), mean_loss, "module", "1", "div", code="TM706"),
    "weight_norm_of_zero": Fault(
        normed_net, with_row(1.0), mean_loss, "module", "0.parametrizations.weight.0", "weight_norm_interface",
        spoil=zero_direction,
    ),
    "shared_module": Fault(
        seeded(Shared), with_row(1.0), mean_loss, "module", "first", "reciprocal", samples=(5,), code="TM706"
    ),
    "loss_inside_of_the_model": Fault(
        seeded(WithLoss), labelled, own_loss, "module", "WithLoss", "div", code="TM706"
    ),
}  # fmt: skip
