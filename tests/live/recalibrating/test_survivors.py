"""What noise gave is brought to the scale of the statistics that survived."""

import torch

from torchmend.live.recalibrating.moments import Moments
from torchmend.live.recalibrating.survivors import matched

NAN = float("nan")
NOISE = Moments(
    values=1001, count=1001, mean=torch.arange(6.0).double(), m2=1000 * torch.tensor([1, 2, 3, 4, 5, 6.0]).double()
)


def test_variances_take_the_survivors_usual_factor_and_means_their_line():
    mean, variance = 3 * NOISE.mean + 2, 7 * NOISE.variance
    lost_mean, lost_variance = mean.clone(), variance.clone()
    lost_mean[0], lost_variance[0] = NAN, NAN
    lost_variance[1] = 1e9  # one that is a number and wrong moves no median
    found_mean, found_variance = matched(NOISE, lost_mean.float(), lost_variance.float(), 0.0)
    torch.testing.assert_close(found_mean[0], mean[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found_variance[0], variance[0], rtol=1e-6, atol=0)


def test_with_few_survivors_all_stays_as_it_was_measured():
    lost = torch.full((6,), NAN)
    lost[:3] = 100.0
    found_mean, found_variance = matched(NOISE, lost, lost, 1e-5)
    assert torch.equal(found_mean, NOISE.mean)
    assert torch.equal(found_variance, NOISE.variance)


def test_a_mean_that_survived_without_its_variance_is_no_guide():
    variance = torch.full((6,), NAN)
    found_mean, _ = matched(NOISE, torch.full((6,), 100.0), variance, 1e-5)
    assert torch.equal(found_mean, NOISE.mean)


def test_negative_variances_did_not_survive():
    variance = torch.tensor([-1.0, -1.0, -1.0, 10.0, 10.0, 10.0])
    assert torch.equal(matched(NOISE, NOISE.mean, variance, 1e-5)[1], NOISE.variance)


def test_noise_that_is_alike_in_all_channels_gives_the_survivors_average():
    same = Moments(values=1001, count=1001, mean=torch.zeros(6).double(), m2=torch.full((6,), 1000.0).double())
    mean = torch.tensor([NAN, 1.0, 2.0, 3.0, 4.0, 5.0])
    torch.testing.assert_close(matched(same, mean, torch.ones(6), 0.0)[0], torch.full((6,), 3.0).double())
