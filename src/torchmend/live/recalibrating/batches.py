"""Batches as data loaders give them, or of noise, and how a model is called with one."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from torchmend.facts.errors import UserError

Forward = Callable[[nn.Module, Any], Any]
"""Runs a model on a batch."""

MOST_FALLOFF = 4.0
"""Above, noise is but one slope over the whole input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Batches of normal noise, the same ones each time that they are gone through.

    Args:
        shape: Of a batch, its size first.
        batches: How many.
        mean: Of every element.
        std: Of every element.
        smooth: Over how many positions along axes 2 and up it is smoothed.
        falloff: By what power of the frequency along these axes its amplitude falls.
        seed: Of a generator of their own.
    """

    shape: tuple[int, ...]
    batches: int = 16
    mean: float = 0.0
    std: float = 1.0
    smooth: float = 0.0
    falloff: float = 0.0
    seed: int = 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.batches):
            white = torch.randn(self.shape, generator=generator)
            yield smoothed(coloured(white, self.falloff), self.smooth) * self.std + self.mean


def smoothed(white: Tensor, width: float) -> Tensor:
    """Smooth noise by a Gaussian, around the edges, and scale it so that its expected variance stays.

    Args:
        white: Independent values, shape [N, C, ...]; axes from 2 on are positions.
        width: The Gaussian's standard deviation, in positions; 0 leaves the noise as it is.
    """
    if width == 0:
        return white
    for axis in range(2, white.dim()):
        frequency = torch.fft.fftfreq(white.shape[axis])
        gain = torch.exp(-2 * (math.pi * width * frequency).square())
        gain = (gain / gain.square().mean().sqrt()).reshape(-1, *[1] * (white.dim() - 1 - axis))
        white = torch.fft.ifft(torch.fft.fft(white, dim=axis) * gain, dim=axis).real
    return white


def coloured(white: Tensor, falloff: float) -> Tensor:
    """Have the amplitude of noise fall with frequency, and scale it so that its expected variance stays.

    Args:
        white: Independent values, shape [N, C, ...]; axes from 2 on are positions.
        falloff: The amplitude goes as frequency ** -falloff, the frequency being the length of the vector of those
            along the axes, and that of the mean over all positions counting as the lowest other one; 0 leaves the
            noise as it is.
    """
    axes = list(range(2, white.dim()))
    if falloff == 0 or not axes:
        return white
    squares = [
        torch.fft.fftfreq(white.shape[axis]).square().reshape(-1, *[1] * (white.dim() - 1 - axis)) for axis in axes
    ]
    lowest = 1 / max(white.shape[axis] for axis in axes)
    frequency = reduce(torch.add, squares).sqrt().clamp(min=lowest)
    gain = frequency.pow(-falloff)
    gain = gain / gain.square().mean().sqrt()
    result: Tensor = torch.fft.ifftn(torch.fft.fftn(white, dim=axes) * gain, dim=axes).real
    return result


def noise(
    shape: Sequence[int],
    *,
    batches: int = 16,
    mean: float = 0.0,
    std: float = 1.0,
    smooth: float = 0.0,
    falloff: float = 0.0,
    seed: int = 0,
) -> Noise:
    """Make batches of normal noise to recalibrate on when there is no data.

    Args:
        shape: Of a batch as the model takes it, its size first, such as (16, 3, 224, 224).
        batches: How many; two or more.
        mean: Of the model's inputs, after their normalisation.
        std: Likewise, above 0.
        smooth: Neighbouring pixels or samples of real inputs are alike: over how many of them (0 to not at all; around
            1 suits small pictures). Axes from 2 on are positions.
        falloff: Another way to have neighbours alike, at all distances: amplitude falls as frequency ** -falloff. 1 is
            that of photographs (Field, "Relations between the statistics of natural images and the response properties
            of cortical cells", 1987). Takes the same axes; use one or the other.
        seed: Of the noise; torch's own generators stay as they are.

    Returns:
        An iterable of float32 tensors on the CPU, made while it is gone through.

    Raises:
        UserError: A value is out of range.
    """
    sizes = tuple(shape)
    if not sizes or not all(size > 0 for size in sizes):
        raise UserError(
            f"A batch of noise cannot have the shape {sizes}. Pass whole numbers such as (16, 3, 224, 224)."
        )
    if batches < 2:
        raise UserError(f"batches is {batches}; it must be 2 or more.")
    if not (0 < std < float("inf")) or not abs(mean) < float("inf"):
        raise UserError(f"mean is {mean} and std is {std}; both must be finite, and std above 0.")
    if not 0 <= smooth < float("inf"):
        raise UserError(f"smooth is {smooth}; it must be 0 or more, and finite.")
    if not 0 <= falloff <= MOST_FALLOFF:
        raise UserError(f"falloff is {falloff}; it must be from 0 to {MOST_FALLOFF}. 1 suits photographs.")
    return Noise(shape=sizes, batches=batches, mean=mean, std=std, smooth=smooth, falloff=falloff, seed=seed)


def first_batches(batches: Iterable[Any], most: int) -> list[Any]:
    """Read and keep the first batches: every layer has to see the same ones, and a generator gives them once.

    Raises:
        TypeError: They cannot be gone through.
        UserError: There are none.
    """
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        raise TypeError(
            f"Got a {type(batches).__name__} as batches. Pass a DataLoader, or a list of batches such as [x1, x2]."
        )
    if most < 1:
        raise UserError(f"most_batches is {most}; it must be 1 or more.")
    found = list(itertools.islice(batches, most))
    if not found:
        raise UserError("There are no batches. Pass a data loader that gives some; a generator can be used only once.")
    return found


def run(model: nn.Module, batch: Any) -> Any:
    """Call a model with a batch, as `torch.optim.swa_utils.update_bn` does, and with several inputs where there are.

    Args:
        model: On one device, to which tensors are moved; on several, tensors stay where they are.
        batch: A tensor; a tuple or list, of which the first element is the input; or a dictionary of keywords. An
            input that is a tuple or list itself is passed as arguments, a dictionary as keywords.
    """
    given = batch[0] if isinstance(batch, tuple | list) and batch else batch
    devices = {each.device for each in itertools.chain(model.parameters(), model.buffers())}
    given = _moved(given, devices.pop()) if len(devices) == 1 else given
    if isinstance(given, Mapping):
        return model(**given)
    return model(*given) if isinstance(given, tuple | list) else model(given)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: _moved(each, device) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_moved(each, device) for each in value]
    return value
