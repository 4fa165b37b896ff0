"""The grid of samples: what stands where."""

import numpy as np
import pytest
import torch
from PIL import Image

from wavessm_x.watching import samples
from wavessm_x.watching.samples import CELL, GAP, HEAD


def drawn(path):
    return np.asarray(Image.open(path).convert("RGB"))


def flat(value, side=CELL):
    return torch.full((3, side, side), value)


def cell(sheet, row, column, side=CELL):
    top, left = HEAD + row * (side + GAP), GAP + column * (side + GAP)
    return sheet[top : top + side, left : left + side]


def test_columns_are_input_mask_output_and_target_and_rows_are_samples(tmp_path):
    generator = torch.Generator().manual_seed(0)
    images, outputs, targets = (torch.rand(2, 3, CELL, CELL, generator=generator) for _ in range(3))
    masks = (torch.rand(2, 1, CELL, CELL, generator=generator) > 0.5).float()
    samples(tmp_path / "new" / "samples_iter10.png", images, masks, outputs, targets)
    sheet = drawn(tmp_path / "new" / "samples_iter10.png")
    assert sheet.shape == (HEAD + 2 * (CELL + GAP), GAP + 4 * (CELL + GAP), 3)
    for column, batch in enumerate((images, masks, outputs, targets)):
        for row in range(2):
            expected = (batch[row].expand(3, -1, -1).permute(1, 2, 0) * 255).round().byte().numpy()
            np.testing.assert_array_equal(cell(sheet, row, column), expected)


def test_every_column_has_a_title(tmp_path):
    samples(tmp_path / "s.png", [flat(0.5)], [flat(0.0)[:1]], [flat(0.5)], [flat(0.5)])
    head = drawn(tmp_path / "s.png")[:HEAD]
    for column in range(4):
        left = GAP + column * (CELL + GAP)
        assert (head[:, left : left + CELL] < 100).any()


def test_small_pictures_are_enlarged_without_blur(tmp_path):
    small = torch.zeros(3, 16, 16)
    small[:, 3, 5] = 1
    samples(tmp_path / "s.png", [small], [small[:1]], [small], [small])
    factor = CELL // 16
    shown = cell(drawn(tmp_path / "s.png"), 0, 0)
    expected = np.zeros((CELL, CELL, 3), dtype=np.uint8)
    expected[3 * factor : 4 * factor, 5 * factor : 6 * factor] = 255
    np.testing.assert_array_equal(shown, expected)


def test_values_beyond_the_range_are_clipped_and_lost_ones_magenta(tmp_path):
    output = flat(0.5)
    output[:, 0], output[:, 1], output[1, 2], output[:, 3] = -3.0, 7.0, float("nan"), float("inf")
    samples(tmp_path / "s.png", [flat(0.5)], [flat(0.0)[:1]], [output.requires_grad_()], [flat(0.5)])
    shown = cell(drawn(tmp_path / "s.png"), 0, 2)
    rows = [tuple(shown[row, 0].tolist()) for row in range(5)]
    assert rows == [(0, 0, 0), (255, 255, 255), (255, 0, 255), (255, 0, 255), (128, 128, 128)]


def test_pictures_of_different_sizes_share_a_grid(tmp_path):
    sizes = [(200, 180), (160, 240)]
    images = [torch.zeros(3, *size) for size in sizes]
    samples(tmp_path / "s.png", images, [each[:1] for each in images], images, images)
    assert drawn(tmp_path / "s.png").shape[:2] == (HEAD + 200 + 160 + 2 * GAP, GAP + 4 * (240 + GAP))


def test_half_precision_is_drawn(tmp_path):
    half = flat(0.5).to(torch.bfloat16)
    samples(tmp_path / "s.png", [half], [half[:1]], [half], [half])
    assert (cell(drawn(tmp_path / "s.png"), 0, 2) == 128).all()


def test_no_sample_and_unequal_numbers_are_errors(tmp_path):
    with pytest.raises(ValueError, match="no sample to draw"):
        samples(tmp_path / "s.png", [], [], [], [])
    with pytest.raises(ValueError, match="shorter"):
        samples(tmp_path / "s.png", [flat(0.5)], [], [flat(0.5)], [flat(0.5)])
