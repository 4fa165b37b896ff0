"""Both scans against a sequential one in double precision."""

import pytest
import torch

from wavessm_x.model import scan
from wavessm_x.model.scan import selective_scan
from wavessm_x.model.ssd import ssd_scan

NAMES = ("u", "dt", "a", "b", "c", "d")


def sequential(u, dt, a, b, c, d):
    """The definition, token by token; a is [D, N]."""
    state = u.new_zeros(u.shape[0], u.shape[2], b.shape[2])
    outputs = []
    for t in range(u.shape[1]):
        step = dt[:, t, None, None]
        state = torch.exp(step * a) * state + step * u[:, t, :, None] * b[:, t, None, :]
        outputs.append((state * c[:, t, None, :]).sum(-1) + d * u[:, t])
    return torch.stack(outputs, dim=1)


def sequential_heads(u, dt, a, b, c, d):
    """The definition; a is [H]."""
    matrix = a.repeat_interleave(u.shape[2] // len(a))[:, None].expand(-1, b.shape[2])
    return sequential(u, dt, matrix, b, c, d)


METHODS = {"exact": (selective_scan, sequential), "ssd": (ssd_scan, sequential_heads)}


def inputs(method, length, *, inner=4, states=3, batch=2, highest=0.1):
    generator = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    dt = torch.rand(batch, length, dtype=torch.float64, generator=generator) ** 4 * highest
    a = (
        -torch.arange(1.0, states + 1, dtype=torch.float64).repeat(inner, 1)
        if method == "exact"
        else -torch.tensor([0.5, 3.0]).double()
    )
    given = (
        normal(batch, length, inner),
        dt,
        a,
        normal(batch, length, states),
        normal(batch, length, states),
        normal(inner),
    )
    return [each.requires_grad_() for each in given]


def value_and_gradients(function, given, pull):
    output = function(*given)
    return [output, *torch.autograd.grad((output * pull).sum(), given)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", [1, 2, 7, 64, 65, 200])
def test_values_and_gradients_are_those_of_the_sequential_scan(method, length):
    function, reference = METHODS[method]
    given = inputs(method, length, highest=2.0)
    pull = torch.randn(2, length, 4, dtype=torch.float64)
    found = value_and_gradients(function, given, pull)
    for name, each, expected in zip(("y", *NAMES), found, value_and_gradients(reference, given, pull), strict=True):
        torch.testing.assert_close(
            each, expected, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("highest", [0.1, 10.0])
def test_single_precision_holds_at_length_4096_and_for_large_steps(method, highest):
    function, reference = METHODS[method]
    given = inputs(method, 4096, batch=1, highest=highest)
    pull = torch.randn(1, 4096, 4, dtype=torch.float64)
    single = [each.detach().float().requires_grad_() for each in given]
    found = value_and_gradients(function, single, pull.float())
    for name, each, expected in zip(("y", *NAMES), found, value_and_gradients(reference, given, pull), strict=True):
        error = (each.double() - expected).norm() / expected.norm()
        assert error < 1e-5, f"{name}: {error}"


@pytest.mark.parametrize("method", METHODS)
def test_gradients_pass_the_numeric_check(method):
    assert torch.autograd.gradcheck(METHODS[method][0], inputs(method, 5, inner=2, states=2, batch=1, highest=1.0))


def test_a_backward_pass_in_small_groups_gives_the_same(monkeypatch):
    given = inputs("exact", 100)
    pull = torch.randn(2, 100, 4, dtype=torch.float64)
    whole = value_and_gradients(selective_scan, given, pull)
    monkeypatch.setattr(scan, "GROUP_NUMBERS", 10 * 12 * 3)
    for each, expected in zip(value_and_gradients(selective_scan, given, pull), whole, strict=True):
        torch.testing.assert_close(each, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_autocast_does_not_lower_the_precision(method):
    function, _ = METHODS[method]
    given = [each.detach().float() for each in inputs(method, 100)]
    with torch.autocast("cpu", torch.bfloat16):
        inside = function(*given)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, function(*given))


@pytest.mark.parametrize("method", METHODS)
def test_half_inputs_are_scanned_in_single_precision(method):
    function, _ = METHODS[method]
    halves = [each.detach().half() for each in inputs(method, 30)]
    assert torch.equal(function(*halves), function(*(each.float() for each in halves)))


def test_shapes_that_do_not_fit_are_told():
    given = inputs("exact", 5)
    given[1] = given[1][:, :4]
    with pytest.raises(ValueError, match=r"dt \[2, 4\].* do not fit"):
        selective_scan(*given)


def test_channels_that_heads_cannot_share_are_told():
    given = inputs("ssd", 5)
    given[2] = -torch.ones(3)
    with pytest.raises(ValueError, match="4 channels cannot be shared by 3 heads"):
        ssd_scan(*given)
