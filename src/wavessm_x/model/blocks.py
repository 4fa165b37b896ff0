"""The block that the network is built of: a frequency-adaptive scan and a gated feed-forward, both residual."""

from torch import Tensor, nn
from torch.nn import functional

from wavessm_x.config import ModelConfig
from wavessm_x.model.ssm import FrequencyAdaptiveSsm

WIDENING = 2.66
"""Hidden channels of the feed-forward relative to its input (Zamir et al., 2022, "Restormer")."""


class Block(nn.Module):
    """Normalise, scan and add; normalise, feed forward and add.

    Args:
        channels: In and out.
        config: Says how it scans, or that it does not.
    """

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        self.scan = None
        if config.use_mamba:
            self.scan = nn.Sequential(
                nn.GroupNorm(1, channels), FrequencyAdaptiveSsm(channels, config), nn.Conv2d(channels, channels, 1)
            )
        self.feed = nn.Sequential(nn.GroupNorm(1, channels), GatedFeedForward(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Return features [B, C, H, W] of the same shape; H and W even where frequencies adapt the scan."""
        if self.scan is not None:
            features = features + self.scan(features)
        fed: Tensor = features + self.feed(features)
        return fed


class GatedFeedForward(nn.Module):
    """Widen, look at the neighbours, let one half gate the other, narrow.

    Args:
        channels: In and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = int(WIDENING * channels)
        self.widen = nn.Conv2d(channels, 2 * hidden, 1)
        self.depthwise = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.narrow = nn.Conv2d(hidden, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return features [B, C, H, W] of the same shape."""
        gate, value = self.depthwise(self.widen(features)).chunk(2, dim=1)
        narrowed: Tensor = self.narrow(functional.gelu(gate) * value)
        return narrowed
