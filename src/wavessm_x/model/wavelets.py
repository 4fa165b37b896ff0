"""One level of an orthogonal wavelet transform, as matrix products with PyWavelets' filter taps.

On CPUs they take a third of the time of a strided convolution for sides up to 64 and two thirds for 256, measured by
benchmarks/wavessm_x/wavelets.py. Their work grows with the cube of the side, so that larger pictures are convolved.

Shapes: B batch, C channels, H and W even height and width, F filter taps.
"""

import pywt  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn
from torch.nn import functional

BANDS = ("ll", "lh", "hl", "hh")
"""The bands in their order: PyWavelets' approximation, horizontal, vertical and diagonal details."""

LARGEST_PRODUCT = 256
"""The largest side that is analysed by matrix products; larger pictures are convolved."""


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
        self.register_buffer("taps", pair.to(dtype or torch.get_default_dtype()), persistent=False)

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
        if max(height, width) > LARGEST_PRODUCT:
            return self._convolved(image)
        bands = self._matrix(height, image) @ image @ self._matrix(width, image).T
        parted = bands.view(batch, channels, 2, height // 2, 2, width // 2)
        ordered = parted.permute(0, 1, 4, 2, 3, 5).reshape(batch, channels, len(BANDS), height // 2, width // 2)
        # torch 2.13 fails to make such a view anew where a compiled graph ends between its making and its use.
        return ordered.clone() if torch.compiler.is_compiling() else ordered

    def synthesise(self, bands: Tensor) -> Tensor:
        """Return the pictures [B, C, H, W] with bands [B, C, 4, H/2, W/2]: the inverse and the adjoint of `analyse`."""
        batch, channels, _, height, width = bands.shape
        parted = bands.reshape(batch, channels, 2, 2, height, width).permute(0, 1, 3, 4, 2, 5)
        joined = parted.reshape(batch, channels, 2 * height, 2 * width)
        return self._matrix(2 * height, bands).T @ joined @ self._matrix(2 * width, bands)

    def _matrix(self, side: int, like: Tensor) -> Tensor:
        """Return what takes a side of so many pixels apart, [side, side]: low-pass rows, then high-pass."""
        taps = self.taps.to(like.dtype)
        units = torch.eye(side, dtype=taps.dtype, device=taps.device)
        wrapped = _wrapped(units, self.length // 2 - 1, dims=(-1,))
        parts = functional.conv1d(wrapped.unsqueeze(1), taps.unsqueeze(1), stride=2)
        return parts.flatten(1).T

    def _convolved(self, image: Tensor) -> Tensor:
        """Return what `analyse` does, by a convolution."""
        batch, channels, height, width = image.shape
        taps = torch.einsum("ai,bj->baij", self.taps, self.taps).flatten(0, 1).unsqueeze(1).to(image.dtype)
        planes = _wrapped(image.flatten(0, 1).unsqueeze(1), self.length // 2 - 1, dims=(-2, -1))
        bands = functional.conv2d(planes, taps, stride=2)
        return bands.view(batch, channels, len(BANDS), height // 2, width // 2)


def _wrapped(planes: Tensor, margin: int, dims: tuple[int, ...]) -> Tensor:
    """Repeat planes [..., H, W] periodically by a margin along some sides; it may be wider than the planes."""
    for dim in dims if margin else ():
        size = planes.shape[dim]
        around = torch.arange(-margin, size + margin, device=planes.device) % size
        planes = planes.index_select(dim, around)
    return planes
