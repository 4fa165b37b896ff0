"""The network: an encoder, a bottleneck and a decoder of blocks, refined in the Fourier domain."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavessm_x.config import ModelConfig
from wavessm_x.model.blocks import Block
from wavessm_x.model.bottleneck import DualStreamFASS
from wavessm_x.model.contrast import detailed
from wavessm_x.model.filling import filled
from wavessm_x.model.fourier import MultiScaleWaveFFC

SMALLEST = 16
"""The least height and width of pictures, in pixels."""

GAIN = 0.5
"""Of the last layer's output, in units of the local contrast, where a mask is given.

A step of Adam moves all weights at once by the learning rate; undamped, the first would undo how well holes begin.
"""


class Inpainting(nn.Module):
    """Restore pictures.

    BatchNorms are in `refinement_ffc` only; nothing else has state that a forward pass changes.

    Args:
        config: The architecture.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        first, *_, last = config.channels
        self.multiple = 16 if config.use_fass else 8
        self.input_conv = nn.Conv2d(7 if config.masked else 3, first, 3, padding=1)
        self.encoder_layers = nn.ModuleList(
            _level(size, count, config) for size, count in zip(config.channels, config.blocks, strict=True)
        )
        steps = list(zip(config.channels[:-1], config.channels[1:], strict=True))
        self.downsample_layers = nn.ModuleList(_downsample(fine, coarse) for fine, coarse in steps)
        self.bottleneck_fass = DualStreamFASS(last, config) if config.use_fass else None
        self.upsample_layers = nn.ModuleList(_upsample(coarse, fine) for fine, coarse in reversed(steps))
        self.skip_gates = nn.ModuleList(GatedSkip(fine) for fine, _ in reversed(steps))
        self.decoder_layers = nn.ModuleList(
            _level(size, count, config)
            for size, count in zip(config.channels[-2::-1], config.blocks[-2::-1], strict=True)
        )
        self.refinement_ffc = None
        if config.use_ffc:
            self.refinement_ffc = MultiScaleWaveFFC(first, config.wavelet, half=config.half_fft)
        self.output = nn.Conv2d(first, 3, 3, padding=1)
        nn.init.zeros_(self.output.weight)  # training begins with the picture as it is, holes filled smoothly
        nn.init.zeros_(cast(Tensor, self.output.bias))

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Restore a batch of pictures.

        Args:
            image: Floats in [0, 1], [B, 3, H, W]; H and W of 16 or more.
            mask: Floats, 1 where the picture is to be filled, else 0, [B, 1, H, W]; given if and only if the config is
                `masked`.

        Returns:
            The restored pictures, of the image's shape; not clamped to [0, 1]. With a mask, all else is left as it is.

        Raises:
            ValueError: A mask lacks, or is not expected; shapes do not fit; or the picture is too small.
        """
        self._check(image, mask)
        given, scale = image, None
        if mask is not None:
            mask = mask.to(image.dtype)
            image = filled(image, mask)
            detail, contrast = detailed(image)
            given, scale = torch.cat([image, mask, detail], dim=1), GAIN * mask * contrast
        height, width = image.shape[-2:]
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        features = self.input_conv(functional.pad(given, padding, mode="reflect"))
        features = self._decoded(*self._encoded(features))
        if self.refinement_ffc is not None:
            features = features + self.refinement_ffc(features)
        change: Tensor = self.output(features)[..., :height, :width]
        return image + (change if scale is None else change * scale)

    def _encoded(self, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the features at an eighth of the resolution, and those of the finer levels, finest first."""
        finer = []
        for level, downsample in zip(self.encoder_layers[:-1], self.downsample_layers, strict=True):
            finer.append(level(features))
            features = downsample(finer[-1])
        features = self.encoder_layers[-1](features)
        if self.bottleneck_fass is not None:
            features = features + self.bottleneck_fass(features)
        return features, finer

    def _decoded(self, features: Tensor, finer: list[Tensor]) -> Tensor:
        layers = zip(self.decoder_layers, self.upsample_layers, self.skip_gates, reversed(finer), strict=True)
        for level, upsample, gate, skipped in layers:
            features = level(gate(upsample(features), skipped))
        return features

    def _check(self, image: Tensor, mask: Tensor | None) -> None:
        if image.dim() != 4 or image.shape[1] != 3 or min(image.shape[-2:]) < SMALLEST:
            raise ValueError(f"Pictures are {list(image.shape)}; expected [B, 3, H, W], H and W of {SMALLEST} or more.")
        if (mask is not None) is not self.config.masked:
            expected = "a mask must be given" if self.config.masked else "no mask is expected"
            raise ValueError(f"The model was made with masked={self.config.masked}: {expected}.")
        if mask is not None and mask.shape != (len(image), 1, *image.shape[-2:]):
            raise ValueError(f"Masks are {list(mask.shape)}; expected {[len(image), 1, *image.shape[-2:]]}.")


class GatedSkip(nn.Module):
    """Add what skipped the coarser levels, as far as a gate a channel lets it through; at the start that is all.

    Args:
        channels: Of both maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(2 * channels, channels, 1, groups=channels)
        for each in self.gate.parameters():
            nn.init.zeros_(each)

    def forward(self, features: Tensor, skipped: Tensor) -> Tensor:
        """Return the sum, [B, C, H, W], of two maps of that shape; the gate lies between 0 and 2."""
        both = torch.stack([features, skipped], dim=2).flatten(1, 2)
        added: Tensor = features + 2 * self.gate(both).sigmoid() * skipped
        return added


def _level(channels: int, count: int, config: ModelConfig) -> nn.Sequential:
    return nn.Sequential(*(Block(channels, config) for _ in range(count)))


def _downsample(fine: int, coarse: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(fine, coarse // 4, 3, padding=1, bias=False), nn.PixelUnshuffle(2))


def _upsample(coarse: int, fine: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(coarse, 4 * fine, 3, padding=1, bias=False), nn.PixelShuffle(2))
