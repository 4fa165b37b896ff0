import numpy as np
import pytest
import pywt
import torch

from wavessm_x.model.wavelets import Wavelet

NAMES = ("haar", *(f"db{order}" for order in range(1, 11)))
SIZES = ((2, 2), (4, 6), (16, 10), (32, 64), (258, 20))


def picture(height, width, dtype=torch.float64):
    return torch.randn(2, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_bands_are_those_of_pywavelets(name, height, width):
    image = picture(height, width)
    bands = Wavelet(name, torch.float64).analyse(image)
    mean, details = pywt.dwt2(image.numpy(), name, mode="periodization")
    np.testing.assert_allclose(bands.numpy(), np.stack([mean, *details], axis=2), atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_synthesis_gives_the_picture_back(name, height, width):
    wavelet = Wavelet(name, torch.float64)
    image = picture(height, width)
    torch.testing.assert_close(wavelet.synthesise(wavelet.analyse(image)), image, atol=1e-10, rtol=0)


def test_the_picture_comes_back_to_single_precision():
    wavelet = Wavelet("db3")
    image = picture(64, 64, torch.float32)
    torch.testing.assert_close(wavelet.synthesise(wavelet.analyse(image)), image, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["haar", "db3"])
def test_gradients_are_right(name):
    wavelet = Wavelet(name, torch.float64)
    image = picture(4, 6).requires_grad_()
    assert torch.autograd.gradcheck(wavelet.analyse, image)
    assert torch.autograd.gradcheck(wavelet.synthesise, wavelet.analyse(image).detach().requires_grad_())


def test_nothing_is_saved():
    assert not Wavelet("db3").state_dict()


def test_an_odd_side_is_told():
    with pytest.raises(ValueError, match="5x4 has an odd side"):
        Wavelet("haar").analyse(torch.zeros(1, 1, 5, 4))
