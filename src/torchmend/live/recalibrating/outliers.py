"""Which batches to leave out at a layer: those with statistics unlike the others', so that one cannot poison all."""

from collections.abc import Sequence

import torch
from torch import Tensor

from torchmend.live.recalibrating.moments import Moments

FEWEST_TO_JUDGE = 5
"""Batches from which on a majority tells what is usual."""

FAR = 8.0
"""Times the scaled median absolute deviation, over batches."""

LEAST_RATIO = 0.7
"""Log-variances that differ by less than this from what is usual (a factor of 2) are never far."""

LEAST_SHIFT = 1.0
"""Means that differ by less than one standard deviation are never far."""

RARE = 1e-3
"""Channels whose usual variance is below this share of the layer's typical one are not judged by: they are silent but
for a few batches, and it is these that matter then."""

_SCALED = 1.4826
"""The median absolute deviation of a normal distribution, in its standard deviations, inverted."""


def left_out(batches: Sequence[Moments | None], eps: float) -> tuple[int, ...]:
    """Return the numbers of the batches that are not to count.

    A batch whose mean or variance is not finite in any channel never counts. Of the others, if there are enough, two
    figures tell how far each lies from what is usual: the root mean square over channels of its log-variances' and of
    its means' distance from their medians over all batches. Both are judged by median and MAD over batches.

    Args:
        batches: Of one layer; None for a batch in which it was not called.
        eps: What the layer adds to variances: differences far below it do not matter.
    """
    sound = {at: each for at, each in enumerate(batches) if each is not None and each.is_finite}
    bad = {at for at, each in enumerate(batches) if each is not None and at not in sound}
    if len(sound) >= FEWEST_TO_JUDGE:
        far = _are_far(list(sound.values()), eps).tolist()
        bad |= {at for at, is_far in zip(sound, far, strict=True) if is_far}
    return tuple(sorted(bad))


def _are_far(batches: Sequence[Moments], eps: float) -> Tensor:
    mean = torch.stack([each.mean for each in batches])
    variance = torch.stack([each.spread for each in batches])
    usual = variance.median(0).values
    alive = _judged(usual)
    logs = (variance[:, alive] + eps).log()
    ratio = _distance(logs - logs.median(0).values)
    shift = mean[:, alive] - mean[:, alive].median(0).values
    shift = _distance(shift / (usual[alive] + eps).sqrt())
    return _is_far(ratio, LEAST_RATIO) | _is_far(shift, LEAST_SHIFT)


def _judged(usual: Tensor) -> Tensor:
    positive = usual > 0
    if not positive.any():
        return ~positive
    return usual >= RARE * usual[positive].median()


def _distance(off: Tensor) -> Tensor:
    return off.square().mean(1).sqrt()


def _is_far(distance: Tensor, least: float) -> Tensor:
    above = distance - distance.median()
    spread = _SCALED * above.abs().median()
    return above > torch.clamp(FAR * spread, min=least)
