import pickle
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from wavessm_x.config import DataConfig
from wavessm_x.data import Batch, Batches, TrainingSet, load
from wavessm_x.data.synthetic import photographs


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    photographs(tmp_path, 11, 24)
    return DataConfig(data_path=tmp_path, patch_size=16, batch_size=4, workers=0)


@pytest.fixture
def train(config: DataConfig) -> TrainingSet:
    return load(config, masked=False).train


def take(train: TrainingSet, config: DataConfig, count: int, **where: int) -> list[Batch]:
    with Batches(train, config, **where) as batches:
        return list(islice(batches, count))


def assert_equal(some: list[Batch], others: list[Batch]) -> None:
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert one["name"] == other["name"]
        assert all(torch.equal(one[key], other[key]) for key in ("image", "target", "mask"))


def test_samples_are_stacked_and_named(train: TrainingSet, config: DataConfig) -> None:
    [batch] = take(train, config, 1)
    assert batch["image"].shape == batch["target"].shape == (4, 3, 16, 16)
    assert batch["mask"].shape == (4, 1, 16, 16)
    assert len(set(batch["name"])) == 4


def test_workers_change_nothing(train: TrainingSet, config: DataConfig) -> None:
    assert_equal(take(train, config, 7), take(train, replace(config, workers=2), 7))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_go_on_at_the_position_that_was_reached(train: TrainingSet, config: DataConfig, workers: int) -> None:
    whole = take(train, config, 8)
    with Batches(train, replace(config, workers=workers)) as first:
        begun = list(islice(first, 3))
    assert first.position == 3
    assert_equal(whole, begun + take(train, replace(config, workers=workers), 5, start=first.position))


def test_batches_are_the_same_after_the_folder_is_loaded_again(train: TrainingSet, config: DataConfig) -> None:
    assert_equal(take(train, config, 5), take(load(config, masked=False).train, config, 5))


def test_an_epoch_shows_each_picture_at_most_once_in_an_order_of_its_own(
    train: TrainingSet, config: DataConfig
) -> None:
    with Batches(train, config) as batches:
        epochs = [[name for batch in islice(batches, 2) for name in batch["name"]] for _ in range(4)]
        assert batches.epoch == 4
    assert all(len(set(names)) == 8 for names in epochs)
    assert len({tuple(names) for names in epochs}) == 4
    assert {name for names in epochs for name in names} == {each.name for each in train.source.pictures}


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_share_an_epoch_without_overlap(train: TrainingSet, config: DataConfig, workers: int) -> None:
    config = replace(config, workers=workers, batch_size=2)
    ranks = [take(train, config, 2, rank=rank, world=2) for rank in range(2)]
    names = [[name for batch in batches for name in batch["name"]] for batches in ranks]
    assert len(set(names[0] + names[1])) == 8


def test_ranks_together_see_what_one_with_their_batch_size_sees(train: TrainingSet, config: DataConfig) -> None:
    halves = [take(train, replace(config, batch_size=2), 5, rank=rank, world=2) for rank in range(2)]
    for whole, *parts in zip(take(train, config, 5), *halves, strict=True):
        assert torch.equal(whole["image"], torch.cat([part["image"] for part in parts]))


def test_a_set_smaller_than_a_batch_wraps_round_with_other_patches(train: TrainingSet, config: DataConfig) -> None:
    config = replace(config, batch_size=25)
    first, second = take(train, config, 2)
    assert {first["name"].count(name) for name in first["name"]} == {2, 3}
    patches = torch.cat([first["image"], second["image"]]).flatten(1)
    assert len(patches.unique(dim=0)) == 50
    assert_equal([second], take(train, config, 1, start=1))


def test_the_global_random_state_is_neither_read_nor_changed(train: TrainingSet, config: DataConfig) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = take(train, replace(config, workers=1), 2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert_equal(first, take(train, replace(config, workers=1), 2))


def test_another_seed_gives_other_batches(train: TrainingSet, config: DataConfig) -> None:
    assert take(train, config, 1)[0]["name"] != take(train, replace(config, seed=43), 1)[0]["name"]


def test_negative_seeds_serve(config: DataConfig) -> None:
    config = replace(config, seed=-1)
    assert_equal(take(load(config, masked=True).train, config, 2), take(load(config, masked=True).train, config, 2))


def test_closed_batches_end(train: TrainingSet, config: DataConfig) -> None:
    batches = Batches(train, replace(config, workers=2))
    workers = batches._batches._workers
    next(batches)
    batches.close()
    assert list(batches) == []
    assert batches.position == 1
    assert not any(worker.is_alive() for worker in workers)


def test_what_workers_find_damaged_is_counted_by_all(train: TrainingSet, config: DataConfig) -> None:
    bad = train.source.pictures[2]
    bad.target.write_bytes(b"none")
    with Batches(train, replace(config, workers=2)) as batches:
        names = [name for batch in islice(batches, 6) for name in batch["name"]]
    assert bad.name not in names
    assert train.source.lost == [bad.name]


@pytest.mark.parametrize("masked", [True, False])
def test_sets_can_be_sent_to_workers_that_are_started_afresh(config: DataConfig, masked: bool) -> None:
    train = load(config, masked=masked).train
    sent = pickle.loads(pickle.dumps(train))
    assert torch.equal(sent[0]["image"], train[0]["image"])
