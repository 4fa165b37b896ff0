"""The bottleneck: one scan over what is coarse, one over what is fine, and the coarse asking the fine."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavessm_x.config import ModelConfig
from wavessm_x.model.ssm import FrequencyAdaptiveSsm
from wavessm_x.model.wavelets import Wavelet

COARSE_STATES = 4
"""States of the coarse stream relative to the fine one's."""


class DualStreamFASS(nn.Module):
    """Take features apart into bands, scan the coarse one and the others, and put them together again.

    Args:
        channels: In and out.
        config: Sizes, the wavelet, and how scans are computed.
    """

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        self.wavelet = Wavelet(config.wavelet)
        self.coarse = FrequencyAdaptiveSsm(channels, config, d_state=COARSE_STATES * config.d_state, adapted=False)
        self.fine = FrequencyAdaptiveSsm(3 * channels, config, adapted=False)
        self.attention = ChannelCrossAttention(channels, 3 * channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return features [B, C, H, W] of the same shape, H and W even."""
        bands = self.wavelet.analyse(features)
        coarse = self.coarse(bands[:, :, 0])
        fine = self.fine(bands[:, :, 1:].flatten(1, 2))
        coarse = coarse + self.attention(coarse, fine)
        details = fine.view(bands.shape[0], bands.shape[1], 3, *bands.shape[3:])
        return self.wavelet.synthesise(torch.cat([coarse.unsqueeze(2), details], dim=2))


class ChannelCrossAttention(nn.Module):
    """Attention between channels: those of one map ask those of another (after Zamir et al., 2022, "Restormer").

    Args:
        asking: Channels of the map that asks; so many are given back.
        answering: Channels of the map that answers.
    """

    def __init__(self, asking: int, answering: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(asking, asking, 1, bias=False)
        self.key_value = nn.Conv2d(answering, 2 * asking, 1, bias=False)
        self.temperature = nn.Parameter(torch.ones(1))
        self.out = nn.Conv2d(asking, asking, 1)

    def forward(self, asking: Tensor, answering: Tensor) -> Tensor:
        """Return the answers [B, C, H, W] to a map of that shape, from another of the same height and width."""
        query = functional.normalize(self.query(asking).flatten(2).float(), dim=-1)
        key, value = self.key_value(answering).flatten(2).chunk(2, dim=1)
        likeness = query @ functional.normalize(key.float(), dim=-1).transpose(1, 2)
        answers = (likeness * self.temperature).softmax(-1).to(value.dtype) @ value
        answered: Tensor = self.out(answers.reshape(asking.shape))
        return answered
