from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wavessm_x.data.folders import DataError, DataWarning
from wavessm_x.data.supplied import supplied


def write(path: Path, levels: np.ndarray) -> None:
    Image.fromarray(levels.astype(np.uint8)).save(path)


def left_half(height: int, width: int) -> np.ndarray:
    levels = np.zeros((height, width))
    levels[:, : width // 2] = 255
    return levels


def test_white_is_what_is_filled(tmp_path: Path) -> None:
    write(tmp_path / "a.png", left_half(20, 20))
    mask = supplied(tmp_path).draw(40, 40, np.random.default_rng(0))
    halves = {bool(mask[:, :19].all()), bool(mask[:, 21:].all())}
    assert halves == {True, False}
    assert mask.mean() == pytest.approx(0.5, abs=0.03)


def test_the_polarity_and_the_coverage_are_said(tmp_path: Path) -> None:
    write(tmp_path / "a.png", left_half(20, 20))
    assert supplied(tmp_path).describe() == "1 masks: white is filled, 50% of them on average."


def test_masks_that_may_be_the_wrong_way_round_are_called_so(tmp_path: Path) -> None:
    levels = np.full((10, 10), 255)
    levels[0] = 0
    write(tmp_path / "a.png", levels)
    assert (
        supplied(tmp_path)
        .describe()
        .endswith("90% of them on average. If black was meant to be filled, invert the masks.")
    )


def test_what_is_painted_on_a_transparent_ground_is_filled(tmp_path: Path) -> None:
    layers = np.zeros((10, 10, 4))
    layers[:5] = 255
    write(tmp_path / "a.png", layers)
    mask = supplied(tmp_path).draw(10, 10, np.random.default_rng(0))
    np.testing.assert_array_equal(mask, np.arange(10)[:, None].repeat(10, axis=1) < 5)


@pytest.mark.parametrize("shape", [(1, 1), (16, 200), (200, 16)])
def test_a_mask_is_never_empty_however_thin_or_far_from_the_middle(tmp_path: Path, shape: tuple[int, int]) -> None:
    levels = np.zeros((300, 300))
    levels[2:4, 2:4] = 255
    write(tmp_path / "a.png", levels)
    mask = supplied(tmp_path).draw(*shape, np.random.default_rng(0))
    assert mask.shape == shape
    assert mask.any()
    assert mask.mean() < 0.1 or mask.size == 1


def test_masks_of_one_colour_are_skipped(tmp_path: Path) -> None:
    write(tmp_path / "a.png", left_half(4, 4) > 0)
    write(tmp_path / "b.png", np.full((4, 4), 255))
    write(tmp_path / "c.png", left_half(4, 4))
    (tmp_path / "d.png").write_bytes(b"none")
    masks = supplied(tmp_path)
    assert [path.name for path in masks.paths] == ["c.png"]
    assert [each.path.name for each in masks.skipped] == ["a.png", "b.png", "d.png"]
    assert [each.reason for each in masks.skipped[:2]] == [
        "it is all black: the highest level is 1 of 255, and white begins at 128",
        "it is all white",
    ]


def test_a_folder_without_masks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="None of 0 masks in"):
        supplied(tmp_path)


def test_a_folder_of_empty_masks_is_refused_with_an_example(tmp_path: Path) -> None:
    write(tmp_path / "a.png", np.zeros((4, 4)))
    with pytest.raises(DataError, match=r"None of 1 masks .* such as .*a\.png: it is all black"):
        supplied(tmp_path)


def test_a_mask_that_is_gone_by_now_is_warned_of_and_drawn(tmp_path: Path) -> None:
    write(tmp_path / "a.png", left_half(4, 4))
    masks = supplied(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.warns(DataWarning, match=r"a\.png cannot be read: the file is gone\. A mask is drawn instead"):
        mask = masks.draw(32, 32, np.random.default_rng(0))
    assert 0.1 < mask.mean() < 0.6
