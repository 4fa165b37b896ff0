"""Fast Fourier convolutions (Chi, Jiang and Mu, 2020, "Fast Fourier Convolution"), gated by wavelets.

A spectrum's lowest frequency is a sum over all pixels. In half precision, whose largest number is 65504, that of
256 x 256 pixels of brightness 1 already overflows; the Inf enters BatchNorm's running statistics and stays there. So
the spectrum and its normalisation are held in single precision here, whatever autocast says.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavessm_x.model.wavelets import Wavelet

GLOBAL_SIXTEENTHS = (8, 7, 5)
"""Of each scale, the sixteenths of the channels that see the whole picture; 3x3 convolutions see the rest."""


class SpectralConv(nn.Module):
    """A 1x1 convolution of the spectrum, with BatchNorm and ReLU; its precision is single, or double for double inputs.

    Args:
        channels: In and out.
        half: Cast the spectrum to half before it is scaled and normalised, as the broken trainer did. Where nothing
            overflows, the result is the same but for rounding.
    """

    def __init__(self, channels: int, *, half: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, 2 * channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(2 * channels)
        self.half_precision = half

    def forward(self, features: Tensor) -> Tensor:
        """Convolve features [B, C, H, W]."""
        height, width = features.shape[-2:]
        exact = features.to(torch.promote_types(features.dtype, torch.float32))
        with torch.autocast(features.device.type, enabled=False):
            real, imaginary = self._spectrum(exact).relu().chunk(2, dim=1)
            convolved: Tensor = torch.fft.irfft2(torch.complex(real, imaginary), s=(height, width), norm="ortho")
            return convolved

    def _spectrum(self, features: Tensor) -> Tensor:
        """Return the convolved and normalised spectrum, real parts before imaginary ones, [B, 2C, H, W/2 + 1]."""
        spectrum = torch.fft.rfft2(features)
        parts = torch.cat([spectrum.real, spectrum.imag], dim=1)
        if self.half_precision:
            parts = parts.half()
        convolved = functional.conv2d(parts, self.conv.weight.to(parts.dtype)).to(features.dtype)
        normalised: Tensor = self.bn(convolved / (features.shape[-2] * features.shape[-1]) ** 0.5)
        return normalised


class WaveFFC(nn.Module):
    """Convolve some channels locally and the others globally; the approximation of all gates both.

    Args:
        channels: In and out, 2 or more.
        global_channels: Of these, the last, that are convolved globally.
        wavelet: "haar", or "db1" to "db10".
        half: See `SpectralConv`.
    """

    def __init__(self, channels: int, global_channels: int, wavelet: str, *, half: bool = False) -> None:
        super().__init__()
        self.shares = [channels - global_channels, global_channels]
        local = self.shares[0]
        self.local_conv = nn.Sequential(
            nn.Conv2d(local, local, 3, padding=1, bias=False), nn.BatchNorm2d(local), nn.ReLU()
        )
        self.global_conv = SpectralConv(global_channels, half=half)
        self.wavelet = Wavelet(wavelet)
        self.freq_gate = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Convolve features [B, C, H, W], H and W even."""
        near, far = torch.split(features, self.shares, dim=1)
        coarse = functional.interpolate(
            self.wavelet.analyse(features)[:, :, 0], size=features.shape[-2:], mode="bilinear", align_corners=False
        )
        convolved = torch.cat([self.local_conv(near), self.global_conv(far)], dim=1)
        gated: Tensor = convolved * self.freq_gate(coarse).sigmoid()
        return gated


class FourierScale(nn.Module):
    """InstanceNorm and a `WaveFFC`, residual; the arguments are those of `WaveFFC`."""

    def __init__(self, channels: int, global_channels: int, wavelet: str, *, half: bool = False) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(channels, affine=True)
        self.ffc = WaveFFC(channels, global_channels, wavelet, half=half)

    def forward(self, features: Tensor) -> Tensor:
        """Refine features [B, C, H, W], H and W even."""
        refined: Tensor = features + self.ffc(self.norm(features))
        return refined


class MultiScaleWaveFFC(nn.Module):
    """Three ways to share the channels between near and far, side by side, and fused.

    Args:
        channels: In and out, 2 or more.
        wavelet: "haar", or "db1" to "db10".
        half: See `SpectralConv`.
    """

    def __init__(self, channels: int, wavelet: str, *, half: bool = False) -> None:
        super().__init__()
        shares = [max(1, channels * sixteenths // 16) for sixteenths in GLOBAL_SIXTEENTHS]
        self.scales = nn.ModuleList(FourierScale(channels, share, wavelet, half=half) for share in shares)
        self.fusion = nn.Conv2d(len(shares) * channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Refine features [B, C, H, W], H and W even."""
        fused: Tensor = self.fusion(torch.cat([scale(features) for scale in self.scales], dim=1))
        return fused
