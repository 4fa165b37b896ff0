"""Pictures -> those for training and those for validation, with nothing in both."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from wavessm_x.data.folders import DataError, Picture


def split(
    pictures: Sequence[Picture], share: float, seed: int, folder: Path
) -> tuple[tuple[Picture, ...], tuple[Picture, ...]]:
    """Keep some pictures for validation.

    Files of equal bytes count as one picture and stay together. Each picture's place in the draw hangs on the seed
    and its own bytes alone, so that renaming changes nothing, and pictures that are added later move few others across.

    Args:
        pictures: All of them.
        share: Of distinct pictures for validation, between 0 and 1; one is kept at least, and one trained on.
        seed: Of the draw.
        folder: Where they lie, for the message.

    Returns:
        The pictures for training, and those for validation; each in the order that they came in.

    Raises:
        DataError: There are fewer than two distinct pictures.
    """
    digests = sorted({each.digest for each in pictures}, key=lambda digest: _rank(seed, digest))
    if len(digests) < 2:
        raise DataError(
            f"{folder} holds {len(pictures)} usable picture(s), {len(digests)} of them distinct; one is needed to train"
            " on and another to validate with. Add pictures, or cut a large one in two."
        )
    count = min(max(round(share * len(digests)), 1), len(digests) - 1)
    kept = frozenset(digests[:count])
    training = tuple(each for each in pictures if each.digest not in kept)
    validation = tuple(each for each in pictures if each.digest in kept)
    return training, validation


def _rank(seed: int, digest: str) -> bytes:
    return hashlib.sha256(f"{seed}:{digest}".encode()).digest()
