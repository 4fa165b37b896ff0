"""Pictures -> samples; each depends on the seed and its epoch and index, or on the seed and its name alone."""

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import TypedDict, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wavessm_x.data.damage import Other, damage
from wavessm_x.data.folders import DataError, Picture
from wavessm_x.data.masks import Mask, draw, draw_piece
from wavessm_x.data.patches import SMALLEST, fit, grow, patch
from wavessm_x.data.reading import Pixels, UnreadableError, read

HIDDEN = 0.5
"""What a network sees where a picture is to be filled."""

Spoil = Callable[[Pixels, np.random.Generator, Other], tuple[Pixels, Mask]]
"""Makes of a clean picture [h, w, 3] the picture that is to be mended, and the mask of what is wrong with it."""


class Sample(TypedDict):
    """One picture; float32 in [0, 1].

    `image` [3, h, w] is what the network sees, `target` [3, h, w] what it should give, `mask` [1, h, w] is 1 where they
    differ or where the picture is to be filled, and `name` is the picture's.
    """

    image: Tensor
    target: Tensor
    mask: Tensor
    name: str


def mask_drawn(clean: Pixels, rng: np.random.Generator, other: Other) -> tuple[Pixels, Mask]:  # noqa: ARG001 a Spoil
    """Leave the picture as it is and draw a mask."""
    height, width, _ = clean.shape
    return clean, draw(height, width, rng)


def piece_drawn(clean: Pixels, rng: np.random.Generator, other: Other) -> tuple[Pixels, Mask]:  # noqa: ARG001 a Spoil
    """Leave the patch as it is and cut a mask for it out of one of a whole picture."""
    height, width, _ = clean.shape
    return clean, draw_piece(height, width, rng)


def damaged(clean: Pixels, rng: np.random.Generator, other: Other) -> tuple[Pixels, Mask]:
    """Damage the picture."""
    spoilt = damage(clean, rng, other)
    return spoilt, differing(spoilt, clean)


def differing(image: Pixels, target: Pixels) -> Mask:
    """Say where any channel of two pictures [h, w, 3] differs by more than one level of 255."""
    return np.asarray((np.abs(image.astype(np.int16) - target) > 1).any(axis=2))


@final
class Source:
    """Reads pictures and makes samples of them.

    Args:
        pictures: Pairs, or photographs; at least one.
        seed: Of everything random.
        masked: Whether what is masked is hidden.
        spoil: How photographs are spoilt; None for pairs.
    """

    def __init__(self, pictures: Sequence[Picture], *, seed: int, masked: bool, spoil: Spoil | None) -> None:
        self.pictures = tuple(pictures)
        self.seed = seed % 2**32
        self._masked = masked
        self._spoil = spoil
        self._lost = torch.zeros(len(self.pictures), dtype=torch.bool)
        self._lost.share_memory_()  # type: ignore[no-untyped-call] # of torch; workers mark, everyone counts

    @property
    def lost(self) -> list[str]:
        """Names of pictures that could not be read any more when their turn came, in whatever process."""
        return [self.pictures[index].name for index in self._lost.nonzero().flatten().tolist()]

    def read(self, index: int) -> tuple[Picture, Pixels]:
        """Read a picture, or if it has been damaged or lost since the start, the next that can be read.

        Args:
            index: Of the picture.

        Returns:
            The picture and [h, w, 3] of a photograph, [h, w, 6] of a pair: the clean one, then the damaged one.

        Raises:
            DataError: None can be read.
        """
        for step in range(len(self.pictures)):
            place = (index + step) % len(self.pictures)
            picture = self.pictures[place]
            try:
                return picture, _read(picture)
            except UnreadableError:
                self._lost[place] = True
        raise DataError(
            f"None of {len(self.pictures)} pictures can be read any more, such as {self.pictures[0].target}."
            " Bring them back, and resume."
        )

    def sample(self, pixels: Pixels, index: int, name: str, rng: np.random.Generator) -> Sample:
        """Make a sample of a picture or a piece of one.

        Args:
            pixels: [h, w, 3] or [h, w, 6], as `read` gives.
            index: Of the picture; another than it is laid over it.
            name: Of the picture.
            rng: Where all randomness comes from.
        """
        target = pixels[..., :3]
        if self._spoil is None:
            image, mask = pixels[..., 3:], differing(pixels[..., 3:], target)
        else:
            image, mask = self._spoil(target, rng, lambda height, width: self._other(index, height, width, rng))
        seen, hidden = _channels_first(image), torch.from_numpy(mask.copy())
        return Sample(
            image=seen.masked_fill(hidden, HIDDEN) if self._masked else seen,
            target=_channels_first(target),
            mask=hidden[None].float(),
            name=name,
        )

    def _other(self, index: int, height: int, width: int, rng: np.random.Generator) -> Pixels:
        """Give another picture of a size; if there is but one, it is turned upside down."""
        count = len(self.pictures)
        if count == 1:
            return fit(self.read(index)[1][::-1, :, :3].copy(), height, width)
        return fit(self.read((index + int(rng.integers(1, count))) % count)[1][..., :3].copy(), height, width)


@final
class TrainingSet(Dataset[Sample]):
    """Patches, cut anew in every epoch.

    Args:
        source: Of the pictures.
        size: Height and width of patches, in pixels.
    """

    def __init__(self, source: Source, size: int) -> None:
        self.source = source
        self._size = size
        self._epoch = 0

    def __len__(self) -> int:
        return len(self.source.pictures)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, whose patches indexing gives."""
        self._epoch = epoch

    def __getitem__(self, index: int) -> Sample:
        return self.at(self._epoch, index)

    def at(self, epoch: int, index: int) -> Sample:
        """Give the patch that an index has in an epoch."""
        place = range(len(self))[index]
        rng = np.random.default_rng((self.source.seed, epoch, place))
        picture, pixels = self.source.read(place)
        return self.source.sample(patch(pixels, self._size, rng), place, picture.name, rng)


@final
class WholeSet(Dataset[Sample]):
    """Whole pictures, spoilt in the same way whenever they are read; those below 16 pixels are continued by reflection.

    Args:
        source: Of the pictures.
    """

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source.pictures)

    def __getitem__(self, index: int) -> Sample:
        place = range(len(self))[index]
        picture, pixels = self.source.read(place)
        name = hashlib.sha256(os.fsencode(picture.name)).digest()
        rng = np.random.default_rng((self.source.seed, int.from_bytes(name[:8])))
        return self.source.sample(grow(pixels, SMALLEST), place, picture.name, rng)


def _read(picture: Picture) -> Pixels:
    clean = read(picture.target)
    if picture.image is None:
        return clean
    image = read(picture.image)
    if image.shape != clean.shape:
        raise UnreadableError(picture.image, "its size is no longer that of its target")
    return np.concatenate([clean, image], axis=2)


def _channels_first(pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float() / 255
