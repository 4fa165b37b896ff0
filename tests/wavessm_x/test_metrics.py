"""The scores of a picture against skimage."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from wavessm_x.metrics import mean_scores, scores

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def picture():
    """An output, its target and a mask, [3, 40, 36] and [1, 40, 36]."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(3, 40, 36, generator=generator)
    output = (target + 0.1 * torch.randn(3, 40, 36, generator=generator)).clamp(0, 1)
    mask = torch.zeros(1, 40, 36)
    mask[:, 10:25, 8:30] = 1
    return output, target, mask


def test_psnr_is_that_of_skimage(picture):
    output, target, _ = picture
    expected = peak_signal_noise_ratio(target.numpy(), output.numpy(), data_range=1.0)
    assert scores(*picture)["psnr"] == pytest.approx(expected, abs=1e-4)


def test_masked_psnr_is_that_of_the_damaged_pixels_alone(picture):
    output, target, _ = picture
    inside = (slice(None), slice(10, 25), slice(8, 30))
    expected = peak_signal_noise_ratio(target[inside].numpy(), output[inside].numpy(), data_range=1.0)
    assert scores(*picture)["psnr_masked"] == pytest.approx(expected, abs=1e-4)


def test_masked_ssim_is_the_mean_of_the_map_of_skimage_there(picture):
    output, target, _ = (each.double().numpy() for each in picture)
    _, similarity = structural_similarity(
        output, target, channel_axis=0, data_range=1.0, full=True,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    assert scores(*picture)["ssim_masked"] == pytest.approx(similarity[:, 10:25, 8:30].mean(), abs=1e-5)


def test_ssim_is_that_of_skimage_but_for_the_border(picture):
    output, target, _ = picture
    border = torch.zeros(1, 40, 36)
    border[:, 5:-5, 5:-5] = 1
    expected = structural_similarity(
        output.double().numpy(), target.double().numpy(), channel_axis=0, data_range=1.0,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    assert scores(output, target, border)["ssim_masked"] == pytest.approx(expected, abs=1e-5)
    whole = scores(output, target, torch.ones(1, 40, 36))
    assert whole["ssim"] == pytest.approx(whole["ssim_masked"], abs=1e-6)
    assert whole["psnr"] == pytest.approx(whole["psnr_masked"], abs=1e-5)


def test_what_lies_outside_the_mask_does_not_count(picture):
    output, target, mask = picture
    far = output.clone()
    far[:, 35:, :] = 0
    before, after = scores(output, target, mask), scores(far, target, mask)
    assert after["psnr_masked"] == before["psnr_masked"]
    assert after["ssim_masked"] == pytest.approx(before["ssim_masked"], abs=1e-6)
    assert after["psnr"] < before["psnr"]


def test_an_empty_mask_gives_nan_for_the_masked_scores_alone(picture):
    output, target, mask = picture
    got = scores(output, target, torch.zeros_like(mask))
    assert {name for name, value in got.items() if math.isnan(value)} == {"psnr_masked", "ssim_masked"}


def test_equal_pictures_have_an_infinite_psnr_and_an_ssim_of_one(picture):
    _, target, mask = picture
    assert scores(target, target, mask) == pytest.approx(
        {"psnr": INF, "ssim": 1.0, "psnr_masked": INF, "ssim_masked": 1.0}, abs=1e-6
    )


def test_values_beyond_the_range_count_as_they_would_be_saved(picture):
    _, target, mask = picture
    bright = target + 3.0
    assert scores(bright, target, mask) == scores(torch.ones_like(target), target, mask)


def test_a_nan_anywhere_in_the_output_makes_every_score_nan(picture):
    output, target, mask = picture
    output[0, 0, 0] = NAN
    assert all(math.isnan(value) for value in scores(output, target, mask).values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_scored_in_float32_also_under_autocast(picture, dtype):
    output, target, mask = picture
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = scores(output.to(dtype), target, mask)
    assert got == scores(output.to(dtype).float(), target, mask)


def test_shapes_that_do_not_fit_are_named(picture):
    output, target, mask = picture
    with pytest.raises(ValueError, match=r"an output \(3, 40, 35\), a target \(3, 40, 36\) and a mask"):
        scores(output[..., :-1], target, mask)
    with pytest.raises(ValueError, match=r"a mask \(3, 40, 36\)"):
        scores(output, target, mask.expand(3, -1, -1))


def test_a_mean_skips_nan_and_is_nan_where_there_is_nothing_else():
    pictures = [{"psnr": 20.0, "lost": NAN}, {"psnr": NAN, "lost": NAN}, {"psnr": 30.0, "lost": NAN}]
    means = mean_scores(pictures)
    assert means["psnr"] == 25.0
    assert math.isnan(means["lost"])


def test_a_perfect_picture_does_not_make_the_mean_infinite():
    assert mean_scores([{"psnr": 20.0}, {"psnr": INF}])["psnr"] == np.mean([20.0, 100.0])
