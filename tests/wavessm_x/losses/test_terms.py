"""The terms of the loss against skimage, PyWavelets and numpy."""

import numpy as np
import pytest
import pywt
import torch
from scipy import ndimage
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from wavessm_x.losses import terms
from wavessm_x.losses.similarity import similarity


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 3, 40, 36, generator=generator)
    return (target + 0.2 * torch.randn(target.shape, generator=generator)).clamp(0, 1), target


@pytest.mark.parametrize("term", [terms.l1, terms.ssim, terms.edge, terms.freq])
def test_a_term_is_zero_where_the_pictures_agree_and_has_a_finite_gradient(term, pair):
    output, target = pair
    assert float(term(target, target)) == pytest.approx(0, abs=1e-6)
    output = output.clone().requires_grad_()
    term(output, target).backward()
    assert output.grad.isfinite().all()
    assert output.grad.abs().sum() > 0


@pytest.mark.parametrize("term", [terms.l1, terms.ssim, terms.edge, terms.freq])
def test_the_gradient_of_a_term_is_that_of_finite_differences(term, pair):
    output, target = (each[:1, :1, :8, :8].double() for each in pair)
    assert torch.autograd.gradcheck(lambda image: term(image, target), output.clone().requires_grad_())


def test_ssim_is_that_of_skimage_away_from_the_borders(pair):
    output, target = (each.double() for each in pair)
    ours = similarity(output, target)
    for index in range(2):
        _, theirs = structural_similarity(
            output[index].numpy(), target[index].numpy(), channel_axis=0, data_range=1.0, full=True,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        np.testing.assert_allclose(ours[index, :, 5:-5, 5:-5].numpy(), theirs[:, 5:-5, 5:-5], atol=1e-9)


@pytest.mark.parametrize("size", [(40, 36), (6, 6), (17, 7)])
def test_ssim_is_that_of_torchmetrics_everywhere_its_gradient_too(pair, size):
    output, target = (each[..., : size[0], : size[1]].double() for each in pair)
    ours, theirs = output.clone().requires_grad_(), output.clone().requires_grad_()
    terms.ssim(ours, target).backward()
    expected, whole = structural_similarity_index_measure(theirs, target, data_range=1.0, return_full_image=True)
    (1 - expected).backward()
    np.testing.assert_allclose(similarity(output, target).numpy(), whole.detach().numpy(), atol=1e-12)
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), atol=1e-12)


def test_ssim_in_float32_is_nearer_to_the_truth_than_that_of_torchmetrics_where_pictures_are_nearly_flat(pair):
    output, target = (each.clone() for each in pair)
    target[:, :, :20] = 0.9
    output[:, :, :20] = 0.9 - 0.01 * output[:, :, :20]
    exact = similarity(output.double(), target.double())
    _, theirs = structural_similarity_index_measure(output, target, data_range=1.0, return_full_image=True)
    error = (similarity(output, target) - exact).abs().max()
    assert error < 1e-3
    assert error < (theirs - exact).abs().max()


def test_ssim_can_be_learned_by_after_it_was_measured_in_inference_mode():
    target = torch.rand(1, 3, 23, 29)
    with torch.inference_mode():
        terms.ssim(target, target)
    output = (target / 2).requires_grad_()
    terms.ssim(output, target).backward()
    assert output.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(8, 6), (7, 6), (8, 5), (9, 7)])
def test_haar_is_that_of_pywavelets(shape):
    image = torch.rand(1, 2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    approximation, details = pywt.dwt2(image.numpy(), "haar", mode="symmetric")
    for ours, theirs in zip(terms.haar(image), (approximation, *details), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-12)


def test_freq_weighs_detail_one_and_a_half_times(pair):
    output, target = (each.double() for each in pair)
    approximation, details = pywt.dwt2((output - target).numpy(), "haar")
    expected = np.abs(approximation).mean() + 1.5 * np.abs(np.stack(details)).mean()
    assert float(terms.freq(output, target)) == pytest.approx(expected, rel=1e-12)


def test_edge_compares_the_magnitudes_of_sobel_gradients(pair):
    def magnitude(images):
        kernel = np.outer([1, 2, 1], [-1, 0, 1]) / 8
        across, down = (
            ndimage.correlate(images.numpy(), each[None, None], mode="nearest") for each in (kernel, kernel.T)
        )
        return np.sqrt(across**2 + down**2)

    output, target = (each.double() for each in pair)
    expected = np.abs(magnitude(output) - magnitude(target)).mean()
    assert float(terms.edge(output, target)) == pytest.approx(expected, rel=1e-4)
