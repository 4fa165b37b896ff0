"""Training batches without end, that can be taken up again at any position."""

import math
from collections.abc import Iterator
from typing import Self, TypedDict, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from wavessm_x.config import DataConfig
from wavessm_x.data.datasets import Sample, TrainingSet

Key = tuple[int, int]
"""An epoch and an index."""

SHUFFLING = 0x5348
"""Sets the random numbers of the order apart from those of the patches."""


class Batch(TypedDict):
    """Samples of one size stacked: `image` and `target` [b, 3, s, s], `mask` [b, 1, s, s], and b names."""

    image: Tensor
    target: Tensor
    mask: Tensor
    name: list[str]


@final
class Batches(Iterator[Batch]):
    """Goes through a training set epoch by epoch, for ever.

    Each epoch has its own order. Pictures that do not fill a last batch of all ranks are left out of that epoch; a set
    that is smaller than one such batch is gone through as often as one needs, each time with other patches. What a
    batch holds depends on the seed and its position alone; no random state outside is read or changed.

    Args:
        dataset: What is gone through.
        config: Its batch size, seed and workers.
        start: The position to begin at: how many batches were given before.
        rank: Which of the processes this is, from 0.
        world: How many processes share the batches, from 1.
    """

    def __init__(self, dataset: TrainingSet, config: DataConfig, start: int = 0, rank: int = 0, world: int = 1) -> None:
        self.position = start
        self._order = _Order(len(dataset), config.batch_size, config.seed, start, rank, world)
        loader = DataLoader(
            _ByKey(dataset),
            batch_sampler=self._order,
            num_workers=config.workers,
            generator=torch.Generator().manual_seed(0),  # otherwise seeds for workers are drawn from the global one
            pin_memory=torch.cuda.is_available(),
        )
        self._batches: Iterator[Batch] | None = iter(loader)

    def __next__(self) -> Batch:
        if self._batches is None:
            raise StopIteration
        batch = next(self._batches)
        self.position += 1
        return batch

    @property
    def epoch(self) -> int:
        """How often the set has been gone through."""
        return self.position // self._order.batches_in_epoch

    def close(self) -> None:
        """Let the workers go; after that there are no more batches."""
        self._batches = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@final
class _ByKey(Dataset[Sample]):
    """A training set whose indices name the epoch too, so that workers need not be told of it."""

    def __init__(self, dataset: TrainingSet) -> None:
        self._dataset = dataset

    def __getitem__(self, key: Key) -> Sample:
        return self._dataset.at(*key)


@final
class _Order(Sampler[list[Key]]):
    """The keys of one rank's batches from a position on."""

    def __init__(self, count: int, batch_size: int, seed: int, start: int, rank: int, world: int) -> None:
        self._count = count
        self._batch_size = batch_size
        self._seed = seed % 2**32
        self._start = start
        self._rank = rank
        self._together = batch_size * world

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, done = divmod(self._start, self.batches_in_epoch)
        mine = slice(self._rank * self._batch_size, (self._rank + 1) * self._batch_size)
        while True:
            keys = self._epochs(epoch)
            for batch in range(done, self.batches_in_epoch):
                first = batch * self._together
                yield keys[first : first + self._together][mine]
            epoch, done = epoch + 1, 0

    @property
    def batches_in_epoch(self) -> int:
        """How many batches of all ranks an epoch fills, 1 at least."""
        return max(self._count // self._together, 1)

    def _epochs(self, number: int) -> list[Key]:
        """Give the keys of an epoch in their order, or of as many epochs as a batch of all ranks needs."""
        rounds = math.ceil(self._together / self._count)
        return [
            (epoch, index)
            for epoch in range(number * rounds, (number + 1) * rounds)
            for index in np.random.default_rng((self._seed, epoch, SHUFFLING)).permutation(self._count).tolist()
        ]
