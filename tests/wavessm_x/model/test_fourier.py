import pytest
import torch
from torch import nn

from wavessm_x.model.fourier import MultiScaleWaveFFC, SpectralConv, WaveFFC


def features(size=16, channels=16, dtype=torch.float32):
    return torch.randn(2, channels, size, size, dtype=dtype, generator=torch.Generator().manual_seed(0))


def bright(size=64):
    """As bright a spectrum as 256 x 256 pixels of brightness 1.25 have, of fewer pixels."""
    return features(size, 8) + 1.25 * 256**2 / size**2


def statistics(module):
    norms = [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]
    return torch.cat([statistic for each in norms for statistic in (each.running_mean, each.running_var)])


def test_the_users_know_the_norms_by_their_names():
    module = MultiScaleWaveFFC(16, "db3")
    names = {name: each.num_features for name, each in module.named_modules() if isinstance(each, nn.BatchNorm2d)}
    shares = ((8, 8), (9, 7), (11, 5))
    assert names == {
        f"scales.{number}.ffc.{part}": size
        for number, (near, far) in enumerate(shares)
        for part, size in (("local_conv.1", near), ("global_conv.bn", 2 * far), ("freq_gate.1", 16))
    }


def test_the_spectrum_is_scaled_to_keep_its_energy():
    conv = SpectralConv(3).double().eval()
    nn.init.dirac_(conv.conv.weight)
    conv.bn.running_var.fill_(1 - conv.bn.eps)
    image = features(channels=3, dtype=torch.float64)
    expected = torch.fft.rfft2(image, norm="ortho")
    torch.testing.assert_close(conv._spectrum(image), torch.cat([expected.real, expected.imag], dim=1))


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_autocast_does_not_lower_the_precision_of_the_spectrum(precision):
    conv = SpectralConv(8)
    image = features(channels=8)
    with torch.autocast("cpu", precision):
        inside = conv(image)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, conv(image))


@pytest.mark.parametrize(("half", "finite"), [(False, True), (True, False)])
def test_a_bright_picture_poisons_the_statistics_only_of_the_broken_cast(half, finite):
    module = MultiScaleWaveFFC(8, "haar", half=half)
    for scale in module.scales:
        scale.norm = nn.Identity()
    with torch.autocast("cpu", torch.float16):
        module(bright())
    assert bool(statistics(module).isfinite().all()) is finite


def test_what_the_broken_cast_gives_to_the_normalisation_is_not_finite():
    conv = SpectralConv(8, half=True)
    seen = []
    conv.bn.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    conv(bright())
    assert not seen[0].isfinite().all()


def test_the_broken_cast_changes_nothing_but_rounding_where_nothing_overflows():
    torch.manual_seed(0)
    sound = WaveFFC(8, 4, "haar").eval()
    broken = WaveFFC(8, 4, "haar", half=True).eval()
    broken.load_state_dict(sound.state_dict())
    image = features(channels=8)
    assert not torch.equal(broken(image), sound(image))
    torch.testing.assert_close(broken(image), sound(image), atol=1e-2, rtol=0)


def test_a_far_pixel_reaches_every_pixel_of_the_global_channels():
    torch.manual_seed(0)
    module = WaveFFC(4, 2, "haar").eval()
    image = features(channels=4).requires_grad_()
    for channel, reached in ((0, False), (3, True)):
        (gradient,) = torch.autograd.grad(module(image)[0, channel, 0, 0], image)
        assert bool(gradient[0, :, 8, 8].any()) is reached


def test_few_channels_are_shared_too():
    assert MultiScaleWaveFFC(2, "haar")(features(channels=2)).shape == (2, 2, 16, 16)


def test_gradients_are_right():
    torch.manual_seed(0)
    module = WaveFFC(4, 2, "db2").double().eval()
    assert torch.autograd.gradcheck(module, features(4, 4, torch.float64)[:1].requires_grad_())
