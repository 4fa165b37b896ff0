"""One level of an orthogonal wavelet transform, as strided convolutions with PyWavelets' filter taps.

Shapes: B batch, C channels, H and W even height and width, F filter taps.
"""

import pywt  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn
from torch.nn import functional

BANDS = ("ll", "lh", "hl", "hh")
"""The bands in their order: PyWavelets' approximation, horizontal, vertical and diagonal details."""


class Wavelet(nn.Module):
    """Take pictures apart into bands and put them together again, exactly; borders are periodic.

    It agrees with PyWavelets' `dwt2` and `idwt2` in the mode `periodization`. It has no parameters and nothing to save.

    Args:
        name: "haar", or "db1" to "db10".
        dtype: Of the taps; None takes the default dtype.
    """

    taps: Tensor

    def __init__(self, name: str, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        wavelet = pywt.Wavelet(name)
        pair = torch.tensor([wavelet.dec_lo, wavelet.dec_hi], dtype=torch.float64).flip(-1)
        planes = torch.einsum("ai,bj->baij", pair, pair).flatten(0, 1).unsqueeze(1)
        self.register_buffer("taps", planes.to(dtype or torch.get_default_dtype()), persistent=False)

    @property
    def length(self) -> int:
        """The number of taps of the filters."""
        return self.taps.shape[-1]

    def analyse(self, image: Tensor) -> Tensor:
        """Return the bands of pictures [B, C, H, W], H and W even, as [B, C, 4, H/2, W/2] in the order of `BANDS`.

        Raises:
            ValueError: A side is odd.
        """
        batch, channels, height, width = image.shape
        if height % 2 or width % 2:
            raise ValueError(f"A picture of {height}x{width} has an odd side; pad it to even sides first.")
        planes = _wrapped(image.flatten(0, 1).unsqueeze(1), self.length // 2 - 1)
        bands = functional.conv2d(planes, self.taps.to(planes.dtype), stride=2)
        return bands.view(batch, channels, len(BANDS), height // 2, width // 2)

    def synthesise(self, bands: Tensor) -> Tensor:
        """Return the pictures [B, C, H, W] with bands [B, C, 4, H/2, W/2]: the inverse and the adjoint of `analyse`."""
        batch, channels, _, height, width = bands.shape
        margin = self.length // 4
        wrapped = _wrapped(bands.flatten(0, 1), margin)
        planes = functional.conv_transpose2d(wrapped, self.taps.to(bands.dtype), stride=2)
        start = 2 * margin + self.length // 2 - 1
        inner = planes[:, 0, start : start + 2 * height, start : start + 2 * width]
        return inner.reshape(batch, channels, 2 * height, 2 * width)


def _wrapped(planes: Tensor, margin: int) -> Tensor:
    """Repeat planes [B, C, H, W] periodically by a margin on every side; it may be wider than the planes."""
    for dim in (-2, -1) if margin else ():
        size = planes.shape[dim]
        around = torch.arange(-margin, size + margin, device=planes.device) % size
        planes = planes.index_select(dim, around)
    return planes
