"""How the largest number of a spectrum grows with the picture, and by how much less if it is scaled first."""

from statistics import median

import torch

from benchmarks.root_cause.pictures import HELD_OUT, TRAINED_ON, square

SIDES = (64, 128, 256, 512)
PHOTOGRAPHS = TRAINED_ON + HELD_OUT


def peaks(side: int) -> dict[str, float]:
    """Measure photographs with values in [0, 1] at one size.

    Returns:
        side: In pixels.
        peak: The largest part of a spectrum, the median over photographs.
        largest: The same, the largest.
        overflows: How many photographs have a spectrum that is not finite when it is cast to half precision.
        scaled: The largest of all if the spectrum is divided by the root of the pixels before it is cast.
        white: The lowest frequency of a white picture.
    """
    pictures = torch.stack([square(name, side) for name in PHOTOGRAPHS])
    spectra = torch.view_as_real(torch.fft.rfft2(pictures))
    found = spectra.abs().amax(dim=(1, 2, 3, 4))
    cast = spectra.half().isfinite().flatten(1).all(dim=1)
    return {
        "side": side,
        "peak": median(found.tolist()),
        "largest": float(found.max()),
        "overflows": int((~cast).sum()),
        "scaled": float(found.max()) / side,
        "white": float(torch.fft.rfft2(torch.ones(side, side)).real.max()),
    }
