"""Detail is told apart from brightness, and in units of what is usual around it."""

import torch

from wavessm_x.model.contrast import LEAST, detailed


def noise(height=40, width=30):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_brightness_is_no_detail():
    detail, contrast = detailed(torch.full((1, 3, 20, 20), 0.7))
    assert detail.abs().max() < 1e-4
    assert torch.allclose(contrast, torch.full_like(contrast, LEAST))


def test_detail_has_one_size_wherever_it_is_faint_or_strong():
    faint, strong = (detailed(0.5 + scale * noise())[0].std() for scale in (0.05, 0.2))
    assert torch.isclose(faint, strong, rtol=0.05)
    assert 0.8 < strong < 1.2


def test_detail_times_contrast_and_the_local_mean_are_the_picture():
    detail, contrast = detailed(noise())
    mean = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(noise(), (2,) * 4, mode="replicate"), 5, 1)
    assert torch.allclose(mean + detail * contrast, noise(), atol=1e-6)


def test_the_contrast_is_that_of_the_place():
    picture = torch.cat([0.01 * noise(), 0.5 * noise()], dim=3)
    _, contrast = detailed(picture)
    assert contrast[..., 40:].mean() > 10 * contrast[..., :20].mean()
