"""Small networks that overflow in float16, and do not in float32."""

import torch
from torch import Tensor, nn


class RmsNorm(nn.Module):
    """Squares in the type that it gets."""

    def __init__(self, width=32):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, rows):
        return self.weight * (rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + 1e-5))


class Fourier(nn.Module):
    """Transforms in float32, and mixes coefficients, the first of which is the sum of all points."""

    def __init__(self):
        super().__init__()
        self.mix, self.head = nn.Linear(2 * 17, 16), nn.Linear(16, 32)

    def forward(self, rows):
        spectrum = torch.view_as_real(torch.fft.rfft(rows.float())).flatten(1)
        return self.head(torch.tanh(self.mix(spectrum) / 1e5))


class Attention(nn.Module):
    """Multiplies queries by keys, and divides afterwards."""

    def __init__(self, width=32):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, rows):
        scores = self.query(rows) @ self.key(rows).transpose(-1, -2) / 2000
        return torch.softmax(scores, -1) @ self.value(rows)


class Late(nn.Module):
    """Attention of torch's own, whose children are never called."""

    def __init__(self, width=32):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, rows):
        return self.attention(rows, rows, rows)[0]


class HandCast(nn.Module):
    """Casts to float16 in its own code."""

    def forward(self, rows):
        return torch.tanh((100 * rows).half().float() / 1e5)


def rms(scale=2000.0):
    return _seeded(lambda: nn.Sequential(nn.Linear(32, 32), RmsNorm(), nn.Linear(32, 4))), scale * _points(16, 32)


def fourier():
    return _seeded(lambda: nn.Sequential(Fourier(), nn.Linear(32, 4))), 4000 * _points(16, 32)


def batch_norm():
    """A linear layer overflows, and what it gives is normalised."""
    model = _seeded(lambda: nn.Sequential(nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)))
    model[0].weight.data.mul_(20)
    return model, 5000 * _points(16, 32)


def attention():
    return _seeded(lambda: nn.Sequential(Attention(), nn.Linear(32, 4))), 600 * (_points(2, 8, 32) - 0.5)


def late_attention():
    return _seeded(lambda: nn.Sequential(Late(), nn.Linear(32, 4))), 1000 * (_points(2, 8, 32) - 0.5)


FAULTS = {
    "rms": (rms, ("1",)),
    "fourier": (fourier, ("0.mix",)),
    "batch_norm": (batch_norm, ("0",)),
    "attention": (attention, ("0",)),
    "late_attention": (late_attention, ("0.attention",)),
}
"""What makes a network and a batch, and the modules to blame."""


def outputs(model: nn.Module, batch: Tensor, *, half: bool = True) -> Tensor:
    """Run a model under autocast to float16, or in float32."""
    with torch.autocast("cpu", torch.float16, enabled=half):
        return model(batch).float()


def gradients(model: nn.Module, batch: Tensor, *, half: bool = True) -> list[Tensor]:
    """Return the gradients of a small loss, without leaving them in the model."""
    return list(torch.autograd.grad(outputs(model, batch, half=half).square().mean(), list(model.parameters())))


def _points(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def _seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()
