import pytest
import torch

from wavessm_x.config import ModelConfig
from wavessm_x.model.bottleneck import ChannelCrossAttention, DualStreamFASS
from wavessm_x.model.ssm import STEPS, STRENGTH, FrequencyAdaptiveSsm, FrequencyFactors, serpentine

CHANNELS, STATES = 6, 4


def config(**changed):
    return ModelConfig.preset("tiny", **changed)


def layer(**changed):
    torch.manual_seed(0)
    return FrequencyAdaptiveSsm(CHANNELS, config(**changed))


def features(height=8, width=8):
    return torch.randn(2, CHANNELS, height, width, generator=torch.Generator().manual_seed(0))


def test_every_second_row_is_turned_round_and_back():
    rows = torch.arange(12).view(3, 4)
    assert serpentine(rows).flatten().tolist() == [0, 1, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11]
    assert torch.equal(serpentine(serpentine(features(5, 7))), features(5, 7))


@pytest.mark.parametrize("ssm", ["exact", "ssd"])
def test_a_token_depends_on_earlier_ones_alone(ssm):
    module = layer(ssm=ssm)
    tokens = torch.randn(1, 100, CHANNELS, requires_grad=True)
    (gradient,) = torch.autograd.grad(module._scanned(tokens, None)[0, 70].sum(), tokens)
    reached = gradient[0].abs().sum(-1) > 0
    assert reached[:71].all()
    assert not reached[71:].any()


def test_steps_stay_within_their_bounds():
    module = layer()
    seen = []
    module.scan = lambda u, dt, *_: seen.append(dt) or u
    for bias in (-50.0, 50.0):
        module.dt_bias.data.fill_(bias)
        module(features())
    assert torch.equal(seen[0], torch.full_like(seen[0], STEPS[0]))
    assert torch.equal(seen[1], torch.full_like(seen[1], STEPS[1]))


def test_steps_start_near_a_hundredth():
    module = layer()
    seen = []
    module.scan = lambda u, dt, *_: seen.append(dt) or u
    module.x_proj.weight.data.zero_()
    module.factors = None
    module(features())
    torch.testing.assert_close(seen[0], torch.full_like(seen[0], 0.01))


def test_rates_start_at_one_to_the_number_of_states():
    rates = layer().A_log.exp()
    assert rates.shape == (2 * CHANNELS, STATES)
    torch.testing.assert_close(rates, torch.arange(1.0, STATES + 1).expand_as(rates))


def test_factors_lie_within_their_bounds():
    b, c, step = FrequencyFactors(CHANNELS, STATES, config())(1e4 * features())
    for each in (b, c):
        assert each.shape == (2, STATES)
        assert (each - 1).abs().max() <= STRENGTH
        assert (each - 1).abs().max() > STRENGTH / 2
    assert step.shape == (2, 1)
    assert step.min() >= 0.5
    assert step.max() <= 1.5


def band_pictures():
    """Pictures that differ from a grey one in brightness, in edges along an axis, and in texture."""
    grey = torch.ones(1, CHANNELS, 8, 8)
    stripes = torch.tensor([1.0, -1.0]).repeat(4)
    return grey, {"structure": 2 * grey, "edges": grey + stripes, "texture": grey + stripes * stripes[:, None]}


@pytest.mark.parametrize("which", ["structure", "edges", "texture"])
def test_each_band_adapts_one_factor_alone(which):
    torch.manual_seed(0)
    factors = FrequencyFactors(CHANNELS, STATES, config())
    grey, changed = band_pictures()
    before, after = factors(grey), factors(changed[which])
    moved = {
        name: not torch.allclose(old, new, atol=1e-6)
        for name, old, new in zip(("structure", "texture", "edges"), before, after, strict=True)
    }
    assert moved == {name: name == which for name in moved}


@pytest.mark.parametrize(("ablation", "index"), [("fass_no_b", 0), ("fass_no_c", 1), ("fass_no_delta", 2)])
def test_an_ablated_factor_is_one(ablation, index):
    factors = FrequencyFactors(CHANNELS, STATES, config(**{ablation: True}))(features())
    assert [bool((each == 1).all()) for each in factors] == [number == index for number in range(3)]


@pytest.mark.parametrize("ssm", ["exact", "ssd"])
def test_the_layer_keeps_the_shape_and_has_no_other_picture_in_view(ssm):
    module = layer(ssm=ssm)
    both = module(features(6, 10))
    assert both.shape == (2, CHANNELS, 6, 10)
    torch.testing.assert_close(both[1:], module(features(6, 10)[1:]))


@pytest.mark.parametrize("ssm", ["exact", "ssd"])
def test_the_compiled_layer_gives_the_same(ssm):
    module = layer(ssm=ssm).requires_grad_(False)
    compiled = torch.compile(module, backend="eager")
    torch.testing.assert_close(compiled(features()), module(features()))


def test_the_coarse_stream_has_more_states():
    bottleneck = DualStreamFASS(128, ModelConfig())
    assert bottleneck.coarse.A_log.shape == (256, 64)
    assert bottleneck.fine.A_log.shape == (768, 16)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (6, 4)])
def test_the_bottleneck_keeps_the_shape(height, width):
    assert DualStreamFASS(CHANNELS, config())(features(height, width)).shape == (2, CHANNELS, height, width)


def test_the_answers_come_from_the_other_map():
    torch.manual_seed(0)
    attention = ChannelCrossAttention(CHANNELS, 3 * CHANNELS)
    silent = torch.zeros(2, 3 * CHANNELS, 8, 8)
    expected = attention.out.bias[None, :, None, None].expand(2, -1, 8, 8)
    torch.testing.assert_close(attention(features(), silent), expected)
