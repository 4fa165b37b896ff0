import os
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wavessm_x.config import DataConfig
from wavessm_x.data import DataError, Datasets, DataWarning, Sample, load, load_whole
from wavessm_x.data.reading import read
from wavessm_x.data.synthetic import photographs


def config(folder: Path, **changed: object) -> DataConfig:
    return DataConfig(data_path=folder, patch_size=16, validation=0.25, **changed)


def pairs(folder: Path, count: int = 4, size: int = 20) -> None:
    """Write pairs that differ in the left upper quarter, and by one level everywhere else."""
    (folder / "input").mkdir()
    for path in photographs(folder / "gt", count, size):
        levels = read(path)
        image = np.where(levels < 255, levels + 1, 254).astype(np.uint8)
        image[: size // 2, : size // 2] = 255 - levels[: size // 2, : size // 2] // 2
        Image.fromarray(image).save(folder / "input" / path.name)


def check(sample: Sample, height: int, width: int) -> None:
    for key, channels in (("image", 3), ("target", 3), ("mask", 1)):
        assert sample[key].shape == (channels, height, width)
        assert sample[key].dtype == torch.float32
        assert 0 <= sample[key].min() <= sample[key].max() <= 1
    assert set(sample["mask"].unique().tolist()) <= {0.0, 1.0}


def samples(sets: Datasets) -> list[Sample]:
    return [each[index] for each in (sets.train, sets.validation) for index in range(len(each))]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("paired", [True, False])
def test_patches_are_trained_on_and_whole_pictures_validated(tmp_path: Path, masked: bool, paired: bool) -> None:
    pairs(tmp_path) if paired else photographs(tmp_path, 4, 20)
    sets = load(config(tmp_path), masked=masked)
    assert (len(sets.train), len(sets.validation), sets.test) == (3, 1, None)
    assert (sets.report.train, sets.report.validation, sets.report.test) == (3, 1, 0)
    check(sets.train[0], 16, 16)
    check(sets.validation[0], 20, 20)


def test_what_is_masked_is_hidden_and_the_rest_is_the_target(tmp_path: Path) -> None:
    photographs(tmp_path, 4, 20)
    for sample in samples(load(config(tmp_path), masked=True)):
        hidden = sample["mask"].bool().expand(3, -1, -1)
        assert (sample["image"][hidden] == 0.5).all()
        torch.testing.assert_close(sample["image"][~hidden], sample["target"][~hidden], rtol=0, atol=0)
        assert hidden.any()


def test_the_mask_of_damage_is_where_the_picture_differs(tmp_path: Path) -> None:
    photographs(tmp_path, 4, 20)
    for sample in samples(load(config(tmp_path), masked=False)):
        difference = (sample["image"] - sample["target"]).abs().amax(dim=0, keepdim=True)
        torch.testing.assert_close(sample["mask"], (difference > 1.5 / 255).float(), rtol=0, atol=0)
        assert sample["mask"].any()


def test_pairs_are_shown_as_they_are_and_masked_where_they_differ_by_more_than_a_level(tmp_path: Path) -> None:
    pairs(tmp_path)
    blind, masked = (load(config(tmp_path), masked=each).validation[0] for each in (False, True))
    image = read(tmp_path / "input" / f"{blind['name']}.png")
    torch.testing.assert_close((blind["image"] * 255).round().byte(), torch.from_numpy(image).permute(2, 0, 1))
    assert not blind["mask"][:, 10:].any()
    assert not blind["mask"][..., 10:].any()
    assert blind["mask"][:, :10, :10].mean() > 0.9
    torch.testing.assert_close(masked["mask"], blind["mask"])
    assert (masked["image"][:, masked["mask"][0].bool()] == 0.5).all()


def test_supplied_masks_are_used_and_their_polarity_reported(tmp_path: Path) -> None:
    photographs(tmp_path / "data", 4, 32)
    (tmp_path / "masks").mkdir()
    levels = np.zeros((32, 32), np.uint8)
    levels[:8] = 255
    Image.fromarray(levels).save(tmp_path / "masks" / "a.png")
    sets = load(config(tmp_path / "data", masks=tmp_path / "masks"), masked=True)
    assert sets.validation[0]["mask"][0, :8].all()
    assert not sets.validation[0]["mask"][0, 8:].any()
    assert sets.report.lines()[0] == "Photographs and 1 masks: white is filled, 25% of them on average."


@pytest.mark.parametrize("size", [1, 2, 15, 17, 23])
@pytest.mark.parametrize("masked", [True, False])
def test_pictures_of_any_size_serve(tmp_path: Path, size: int, masked: bool) -> None:
    photographs(tmp_path, 4, size, seed=3)
    sets = load(config(tmp_path), masked=masked)
    check(sets.train[0], 16, 16)
    check(sets.validation[0], max(size, 16), max(size, 16))


def test_a_patch_depends_on_its_epoch_and_index_alone(tmp_path: Path) -> None:
    photographs(tmp_path, 4, 40)
    first, second = (load(config(tmp_path), masked=False).train for _ in range(2))
    first.set_epoch(3)
    early = first[1]
    second[0], second[1]
    second.set_epoch(3)
    late = second[1]
    for key in ("image", "target", "mask"):
        assert torch.equal(early[key], late[key])
    assert early["name"] == late["name"]
    assert not torch.equal(second.at(4, 1)["target"], late["target"])


def test_whole_pictures_are_spoilt_alike_whatever_the_others(tmp_path: Path) -> None:
    photographs(tmp_path / "rest", 2, 24, seed=9)
    paths = photographs(tmp_path / "many", 12, 24)
    (tmp_path / "few").mkdir()
    for path in paths[3:8]:
        shutil.copy(path, tmp_path / "few" / path.name)
    many, few = (
        {test[place]["name"]: (place, test[place]["mask"]) for place in range(len(test))}
        for test in (
            load(config(tmp_path / "rest", data_path_test=tmp_path / name), masked=True).test
            for name in ("many", "few")
        )
    )
    for name, (place, mask) in few.items():
        assert place != many[name][0]
        assert torch.equal(mask, many[name][1])


def test_copies_never_land_on_both_sides_and_tested_pictures_are_kept_out(tmp_path: Path) -> None:
    data, test = tmp_path / "data", tmp_path / "test"
    for path in photographs(data, 12, 16):
        shutil.copy(path, data / f"copy_{path.name}")
    photographs(test, 3, 16)
    sets = load(config(data, data_path_test=test), masked=True)
    digests = [{each.digest for each in part.source.pictures} for part in (sets.train, sets.validation, sets.test)]
    assert not digests[0] & digests[1]
    assert not (digests[0] | digests[1]) & digests[2]
    assert sets.report.tested == 6
    assert (sets.report.train + sets.report.validation, sets.report.test) == (18, 3)
    assert "6 pictures that the test has too are kept out of training." in sets.report.lines()


def test_what_is_left_out_is_warned_of_once_by_name_and_counted(tmp_path: Path) -> None:
    paths = photographs(tmp_path, 10, 16)
    for path in paths[:7]:
        path.write_bytes(b"none")
    with pytest.warns(DataWarning, match=r"7 files are skipped: .*0000\.png \(.*0004\.png \(.*\), \.\.\.\.$") as caught:
        sets = load(config(tmp_path), masked=True)
    assert len(caught) == 1
    assert "0005.png" not in str(caught[0].message)
    assert [each.path for each in sets.report.skipped] == paths[:7]


def test_files_without_partners_are_warned_of(tmp_path: Path) -> None:
    pairs(tmp_path)
    (tmp_path / "gt" / "0002.png").unlink()
    with pytest.warns(DataWarning, match=r"1 files have no partner: .*input.0002\.png\.$"):
        assert load(config(tmp_path), masked=False).report.alone == (tmp_path / "input" / "0002.png",)


def test_a_picture_that_is_damaged_after_the_start_is_replaced_and_counted(tmp_path: Path) -> None:
    photographs(tmp_path, 4, 20)
    train = load(config(tmp_path), masked=True).train
    bad, good = (picture.name for picture in train.source.pictures[:2])
    (tmp_path / bad).write_bytes(b"none")
    assert train.source.lost == []
    assert [train[0]["name"], train[0]["name"]] == [good, good]
    assert train.source.lost == [bad]


def test_the_last_index_is_replaced_by_the_first(tmp_path: Path) -> None:
    photographs(tmp_path, 4, 20)
    train = load(config(tmp_path), masked=True).train
    (tmp_path / train.source.pictures[-1].name).unlink()
    assert train[len(train) - 1]["name"] == train.source.pictures[0].name


def test_a_pair_whose_sizes_change_after_the_start_is_replaced(tmp_path: Path) -> None:
    pairs(tmp_path)
    train = load(config(tmp_path), masked=False).train
    bad = train.source.pictures[0]
    Image.new("RGB", (3, 3)).save(bad.image)
    assert train[0]["name"] == train.source.pictures[1].name
    assert train.source.lost == [bad.name]


def test_when_nothing_can_be_read_any_more_the_first_file_is_named(tmp_path: Path) -> None:
    paths = photographs(tmp_path, 4, 20)
    train = load(config(tmp_path), masked=True).train
    for path in paths:
        path.unlink()
    with pytest.raises(DataError, match=r"None of 3 pictures can be read any more, such as .*\.png\."):
        train[0]


def test_an_index_beyond_the_set_is_refused(tmp_path: Path) -> None:
    photographs(tmp_path, 4, 20)
    sets = load(config(tmp_path), masked=True)
    for each in (sets.train, sets.validation):
        with pytest.raises(IndexError):
            each[len(each)]


def test_masks_have_no_use_for_blind_training_or_pairs(tmp_path: Path) -> None:
    photographs(tmp_path / "plain", 4, 20)
    (tmp_path / "paired").mkdir()
    pairs(tmp_path / "paired")
    with pytest.raises(DataError, match="blind inpainting is given none"):
        load(config(tmp_path / "plain", masks=tmp_path), masked=False)
    with pytest.raises(DataError, match="holds pairs, masked where they differ"):
        load(config(tmp_path / "paired", masks=tmp_path), masked=True)


def test_a_test_folder_that_holds_everything_is_refused(tmp_path: Path) -> None:
    photographs(tmp_path, 4, 20)
    with pytest.raises(DataError, match=r"holds all of .*: test on others, or on none"):
        load(config(tmp_path, data_path_test=tmp_path), masked=True)


def test_nothing_is_warned_of_when_nothing_is_left_out(tmp_path: Path) -> None:
    photographs(tmp_path, 4, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = load(config(tmp_path), masked=False).report
    assert report.lines() == [
        "Photographs with drawn damage; blind.",
        "3 pictures to train on, 1 to validate with, 0 to test on.",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems only take names that are text")
def test_names_that_are_no_text_serve(tmp_path: Path) -> None:
    for place, path in enumerate(photographs(tmp_path, 4, 20)):
        path.rename(tmp_path / os.fsdecode(b"\xff%d.png" % place))
    check(load(config(tmp_path), masked=True).validation[0], 20, 20)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("paired", [True, False])
def test_all_pictures_are_evaluated_on_in_the_same_way_each_time(tmp_path: Path, masked: bool, paired: bool) -> None:
    pairs(tmp_path) if paired else photographs(tmp_path, 4, 20)
    first, again = (load_whole(config(tmp_path), masked=masked) for _ in range(2))
    assert len(first.pictures) == 4
    for one, other in zip(first.pictures, again.pictures, strict=True):
        check(one, 20, 20)
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["mask"], other["mask"])


def test_files_that_cannot_be_evaluated_on_are_left_out_with_reasons(tmp_path: Path) -> None:
    pairs(tmp_path)
    (tmp_path / "input" / "torn.png").write_bytes(b"torn")
    (tmp_path / "gt" / "torn.png").write_bytes(b"torn")
    (tmp_path / "gt" / "alone.png").write_bytes(b"")
    left_out = load_whole(config(tmp_path), masked=False).left_out
    assert [each.path.relative_to(tmp_path).as_posix() for each in left_out] == [
        "input/torn.png",
        "gt/torn.png",
        "gt/alone.png",
    ]
    assert left_out[-1].reason == "it has no partner"
