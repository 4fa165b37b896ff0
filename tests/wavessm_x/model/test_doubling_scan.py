"""The scans for exported graphs against those that they stand for."""

import pytest
import torch

from wavessm_x.model.doubling_scan import accumulated, selective_scan_by_doubling, ssd_scan_by_doubling
from wavessm_x.model.scan import selective_scan
from wavessm_x.model.ssd import ssd_scan


def inputs(length, rates):
    generator = torch.Generator().manual_seed(length)
    u, b, c = (torch.randn(2, length, size, dtype=torch.float64, generator=generator) for size in (4, 3, 3))
    dt = torch.rand(2, length, dtype=torch.float64, generator=generator)
    a = -torch.rand(*rates, dtype=torch.float64, generator=generator) * 4
    return u, dt, a, b, c, torch.rand(4, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 1000])
@pytest.mark.parametrize(
    ("scan", "by_doubling", "rates"),
    [(selective_scan, selective_scan_by_doubling, (4, 3)), (ssd_scan, ssd_scan_by_doubling, (2,))],
    ids=["exact", "ssd"],
)
def test_doubling_gives_what_going_in_turn_gives(scan, by_doubling, rates, length):
    given = inputs(length, rates)
    torch.testing.assert_close(by_doubling(*given), scan(*given), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 13])
def test_what_is_accumulated_is_the_recurrence(length):
    added, kept = torch.rand(2, 1, length, dtype=torch.float64)
    expected, state = [], 0.0
    for more, share in zip(added[0].tolist(), kept[0].tolist(), strict=True):
        state = share * state + more
        expected.append(state)
    assert accumulated(added, kept)[0].tolist() == pytest.approx(expected)
