"""A selective state-space layer whose writing, reading and step size are adapted to the frequencies of the picture.

Shapes: B batch, C channels, D inner channels, N states, L tokens (pixels along rows, every second row backwards).
"""

from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavessm_x.config import ModelConfig
from wavessm_x.model.scan import selective_scan
from wavessm_x.model.ssd import ssd_scan
from wavessm_x.model.wavelets import Wavelet

STRENGTH = 0.3
"""What the strengths of the adaptation start at."""
STEPS = (1e-3, 0.1)
"""The smallest and the largest step."""
FIRST_STEP = 0.01
"""The step, where nothing adapts it, at the start."""
HEAD_CHANNELS = 32
"""Channels that share a scalar rate, at most."""


class FrequencyFactors(nn.Module):
    """What a picture's bands make of B, C and the step size; those that the config leaves as they are, are 1.

    Args:
        channels: Of the features.
        d_state: States of a scan.
        config: Its wavelet and ablations.
    """

    def __init__(self, channels: int, d_state: int, config: ModelConfig) -> None:
        super().__init__()
        self.wavelet = Wavelet(config.wavelet)
        self.structure = None if config.fass_no_b else _Gauge(channels, d_state)
        self.texture = None if config.fass_no_c else _Gauge(channels, d_state)
        self.edges = None if config.fass_no_delta else _Gauge(channels, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the factors of B [B, N], C [B, N] and the step [B, 1] from features [B, C, H, W], H and W even."""
        low, rows, columns, diagonal = self.wavelet.analyse(features).unbind(2)
        one = features.new_ones(len(features), 1, dtype=torch.float32)
        structure, texture, edges = self.structure, self.texture, self.edges
        return (
            one if structure is None else 1 + structure.strength * structure(low).tanh(),
            one if texture is None else 1 + texture.strength * texture(diagonal.abs()).tanh(),
            one if edges is None else 0.5 + (edges.strength * edges(rows.abs() + columns.abs())).sigmoid(),
        )


class FrequencyAdaptiveSsm(nn.Module):
    """Scan the pixels of features in a serpentine, gate the result, and mix it with its neighbours.

    Args:
        channels: In and out.
        config: Sizes, ablations, and how scans are computed.
        d_state: States of a scan; None takes the config's.
        adapted: Whether the frequencies adapt it, if the config has it so; then H and W must be even.
    """

    def __init__(self, channels: int, config: ModelConfig, *, d_state: int | None = None, adapted: bool = True) -> None:
        super().__init__()
        self.states = d_state or config.d_state
        inner = config.expand * channels
        self.factors = FrequencyFactors(channels, self.states, config) if adapted and config.use_fass else None
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, config.d_conv, padding=config.d_conv - 1, groups=inner)
        self.x_proj = nn.Linear(inner, 1 + 2 * self.states, bias=False)
        self.dt_bias = nn.Parameter(torch.full((1,), FIRST_STEP).expm1().log())
        self.A_log = nn.Parameter(_first_rates(inner, self.states, config).log())
        self.D = nn.Parameter(torch.ones(inner))
        self.norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, channels, bias=False)
        self.skip_scale = nn.Parameter(torch.ones(channels))
        self.local = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.attention = ChannelAttention(channels)
        self.scan = selective_scan if config.ssm == "exact" else ssd_scan

    def forward(self, features: Tensor) -> Tensor:
        """Return features [B, C, H, W] of the same shape."""
        tokens = serpentine(features).flatten(2).transpose(1, 2)
        scanned = self._scanned(tokens, self.factors(features) if self.factors else None)
        mixed = self.out_proj(self.norm(scanned)) + self.skip_scale * tokens
        image = serpentine(mixed.transpose(1, 2).reshape(features.shape))
        located: Tensor = image + self.local(image) * self.attention(image)
        return located

    def _scanned(self, tokens: Tensor, factors: tuple[Tensor, Tensor, Tensor] | None) -> Tensor:
        """Scan and gate tokens [B, L, C]; return [B, L, D]."""
        inner, gate = self.in_proj(tokens).chunk(2, dim=-1)
        past = self.conv1d(inner.transpose(1, 2))[..., : inner.shape[1]]
        u = functional.silu(past).transpose(1, 2)
        dt, b, c = torch.split(self.x_proj(u).float(), [1, self.states, self.states], dim=-1)
        dt = functional.softplus(dt.squeeze(-1) + self.dt_bias)
        if factors is not None:
            b, c, dt = b * factors[0].unsqueeze(1), c * factors[1].unsqueeze(1), dt * factors[2]
        y: Tensor = self.scan(u, dt.clamp(*STEPS), -self.A_log.exp(), b, c, self.D)
        return y * functional.silu(gate)


class ChannelAttention(nn.Module):
    """A weight between 0 and 1 for each channel, from the channels' means (Hu et al., 2017, arXiv 1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(4, channels // 4)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return weights [B, C, 1, 1] for features [B, C, H, W]."""
        weights: Tensor = self.excite(functional.silu(self.squeeze(features.mean((2, 3), keepdim=True)))).sigmoid()
        return weights


class _Gauge(nn.Module):
    """A projection of a band's means over the picture, and the learnt strength with which it is to act."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, out)
        self.strength = nn.Parameter(torch.tensor(STRENGTH))

    def forward(self, band: Tensor) -> Tensor:
        gauged: Tensor = self.proj(band.float().mean((2, 3)))
        return gauged


def serpentine(features: Tensor) -> Tensor:
    """Turn every second row of features [..., H, W] round, so that neighbours in the order of rows are neighbours.

    It is its own inverse.
    """
    second = torch.arange(features.shape[-2], device=features.device) % 2 == 1
    return torch.where(second.unsqueeze(-1), features.flip(-1), features)


def _first_rates(inner: int, d_state: int, config: ModelConfig) -> Tensor:
    """Return the negated rates at the start: 1 to d_state, of each channel and state, or spread over the heads."""
    if config.ssm == "exact":
        return torch.arange(1.0, d_state + 1).repeat(inner, 1)
    return torch.linspace(1.0, d_state, inner // gcd(inner, HEAD_CHANNELS))
