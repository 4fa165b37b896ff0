"""`torchmend inspect`: what it shows, and what it returns."""

import json

import pytest
import torch

import checkpoints
from checkpoints import torchmend
from torchmend.reports.inspection import name_filter


@pytest.fixture
def damaged(tmp_path):
    checkpoint = checkpoints.nan_channels(checkpoints.training_checkpoint())
    checkpoint["best_psnr"] = float("nan")
    return checkpoints.save(checkpoint, tmp_path / "damaged.pth")


@pytest.fixture
def blocks(tmp_path):
    weights = {f"layers.{i}.conv.weight": torch.full((2, 2), float(i)) for i in range(12)}
    return weights, lambda: checkpoints.save(weights, tmp_path / "blocks.pth")


def test_it_shows_tensors_and_metadata_and_never_judges(damaged):
    outcome = torchmend("inspect", damaged)
    assert (outcome.rc, outcome.stderr) == (0, "")
    assert "NaN 3 / 64" in outcome.stdout
    assert "best_psnr" in outcome.stdout


def test_alike_blocks_are_folded_with_the_range_of_all(blocks):
    outcome = torchmend("inspect", blocks[1]())
    assert "0..11.conv.weight (12 alike)" in outcome.stdout
    assert "|max| 11" in outcome.stdout


def test_a_damaged_block_is_not_folded_away(blocks):
    blocks[0]["layers.5.conv.weight"][0] = float("nan")
    lines = [line.split()[0] for line in torchmend("inspect", blocks[1]()).stdout.splitlines() if "float32" in line]
    assert lines == ["0..4.conv.weight", "5.conv.weight", "6..11.conv.weight"]


def test_depth_folds_no_blocks_and_counts_what_is_below(tmp_path):
    weights = {f"layers.{i}.{leaf}": torch.ones(2) for i in range(4) for leaf in ("weight", "bias")}
    stdout = torchmend("inspect", checkpoints.save(weights, tmp_path / "x.pth"), "--depth", "2").stdout
    assert stdout.count("2 tensors   16 B") == 4


@pytest.mark.parametrize("pattern", ["layers.3", "*.3.*"])
def test_a_filter_is_part_of_a_name_or_a_glob(blocks, pattern):
    stdout = torchmend("inspect", blocks[1](), "--filter", pattern).stdout
    assert stdout.count("float32") == 1


def test_a_filter_that_fits_nothing_says_so(blocks):
    assert "Nothing in this file has such a name." in torchmend("inspect", blocks[1](), "--filter", "xyz").stdout


def test_stats_count_every_tensor_in_full(tmp_path):
    path = checkpoints.save({"w": torch.tensor([-1.0, 0.0, 2.0])}, tmp_path / "x.pth")
    assert "-1 .. 2   zeros 1   below zero 1" in torchmend("inspect", path, "--stats").stdout


def test_tied_tensors_name_each_other(tmp_path):
    weight = torch.ones(3, 2)
    path = checkpoints.save({"emb.weight": weight, "head.weight": weight}, tmp_path / "x.pth")
    assert "tied: same storage as emb.weight" in torchmend("inspect", path).stdout
    (data,) = json.loads(torchmend("inspect", path, "--format", "json").stdout)["results"]
    assert [each["shares_storage_with"] for each in data["tensors"]] == [None, "emb.weight"]


def test_json_folds_nothing(blocks):
    (data,) = json.loads(torchmend("inspect", blocks[1](), "--format", "json").stdout)["results"]
    assert (len(data["tensors"]), data["tensors"][0]["bytes"]) == (12, 16)


def test_an_unreadable_file_exits_2_in_the_words_of_diagnose(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(b"")
    outcome = torchmend("inspect", path)
    assert (outcome.rc, outcome.stdout) == (2, torchmend("diagnose", path).stdout)


def test_a_name_filter_without_wildcards_looks_inside():
    assert name_filter("bn")("layer.bn1.weight")
    assert not name_filter("bn*")("layer.bn1.weight")
