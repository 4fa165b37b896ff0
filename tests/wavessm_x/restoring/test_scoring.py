"""Scores of pictures whose originals are known, and the files they are written to."""

import csv
import json
import math

import pytest
import torch

from networks import network
from wavessm_x.config import DataConfig
from wavessm_x.data import DataError, Skipped, load_whole
from wavessm_x.data.synthetic import photographs
from wavessm_x.restoring import Restorer, RestoringError
from wavessm_x.restoring.scoring import Scored, check_scores_file, score_all, write_scores

NAN = math.nan
SCORED = [
    Scored(name="a.png", scores={"psnr": 20.0, "ssim": 0.5, "psnr_masked": 10.0, "ssim_masked": 0.25}),
    Scored(name="b.png", scores={"psnr": math.inf, "ssim": 1.0, "psnr_masked": NAN, "ssim_masked": NAN}),
]


def whole(folder, *, masked=True):
    if not folder.exists():
        photographs(folder, 3, 40, 0)
    return load_whole(DataConfig(data_path=folder, seed=1), masked=masked)


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "blind"])
def test_scores_are_the_same_whenever_they_are_made(tmp_path, masked):
    restorer = Restorer(network(masked=masked))
    first, again = (list(score_all(restorer, whole(tmp_path / "in", masked=masked).pictures)) for _ in range(2))
    assert first == again
    assert len({each.scores["psnr"] for each in first}) == 3
    assert all(math.isfinite(value) for each in first for value in each.scores.values())


def test_masked_pixels_alone_are_what_a_masked_network_is_worse_by(tmp_path):
    pictures = whole(tmp_path / "in").pictures
    (first, *_) = score_all(Restorer(network()), pictures)
    share = float(pictures[0]["mask"].mean())
    assert first.scores["psnr"] == pytest.approx(first.scores["psnr_masked"] - 10 * math.log10(share), abs=1e-3)


def test_a_picture_that_was_lost_is_named_and_the_others_are_scored(tmp_path):
    pictures = whole(tmp_path / "in").pictures
    lost = pictures.source.pictures[1].target
    lost.unlink()
    results = list(score_all(Restorer(network()), pictures))
    assert results[1] == Skipped(path=lost, reason="it can no longer be read.")
    assert [type(each) for each in results] == [Scored, Skipped, Scored]


def test_numbers_that_are_not_finite_are_a_failure(tmp_path):
    model = network()
    torch.nn.init.constant_(model.output.bias, NAN)
    assert all("not finite" in each.reason for each in score_all(Restorer(model), whole(tmp_path / "in").pictures))


def test_files_that_are_left_out_are_listed(tmp_path):
    photographs(tmp_path / "in", 2, 40, 0)
    (tmp_path / "in" / "torn.png").write_bytes(b"torn")
    assert [each.path.name for each in whole(tmp_path / "in").left_out] == ["torn.png"]


def test_masks_for_a_blind_network_are_refused(tmp_path):
    photographs(tmp_path / "in", 2, 40, 0)
    with pytest.raises(DataError, match="blind"):
        load_whole(DataConfig(data_path=tmp_path / "in", masks=tmp_path), masked=False)


def test_json_has_the_means_the_pictures_and_what_failed(tmp_path):
    write_scores(tmp_path / "new" / "x.json", SCORED, [Skipped(path=tmp_path / "c.png", reason="torn")])
    report = json.loads((tmp_path / "new" / "x.json").read_text())
    assert report["mean"] == {"psnr": 60.0, "ssim": 0.75, "psnr_masked": 10.0, "ssim_masked": 0.25}
    assert report["pictures"][0] == {"name": "a.png", **SCORED[0].scores}
    assert report["pictures"][1] == {"name": "b.png", "psnr": 100.0, "ssim": 1.0, "psnr_masked": None} | {
        "ssim_masked": None
    }
    assert report["failed"] == [{"path": str(tmp_path / "c.png"), "reason": "torn"}]


def test_csv_has_a_line_a_picture(tmp_path):
    write_scores(tmp_path / "x.csv", SCORED, [])
    with (tmp_path / "x.csv").open(newline="") as lines:
        rows = list(csv.reader(lines))
    assert rows == [
        ["name", "psnr", "ssim", "psnr_masked", "ssim_masked"],
        ["a.png", "20.0", "0.5", "10.0", "0.25"],
        ["b.png", "100.0", "1.0", "", ""],
    ]


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(RestoringError, match=r"\.csv or \.json; x\.txt is neither"):
        check_scores_file(tmp_path / "x.txt")
