import pytest
import torch
from torch import nn

from wavessm_x.config import ModelConfig
from wavessm_x.model import Inpainting, load_weights


def network(**changed):
    """Make a network that changes pictures, as one does that has been trained."""
    torch.manual_seed(0)
    model = Inpainting(ModelConfig.preset("tiny", **changed))
    model.output.reset_parameters()
    return model


def images(height=32, width=32, batch=2):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def parameters(model):
    return sum(each.numel() for each in model.parameters())


@pytest.fixture(scope="module")
def plain():
    return network()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 31), (40, 16), (33, 64)])
@pytest.mark.parametrize("use_fass", [True, False])
def test_pictures_of_any_size_keep_it(height, width, use_fass):
    assert network(use_fass=use_fass)(images(height, width)).shape == (2, 3, height, width)


def test_training_begins_with_pictures_as_they_are():
    assert torch.equal(Inpainting(ModelConfig.preset("tiny"))(images()), images())


def test_base_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = Inpainting(ModelConfig())
    assert round(parameters(model) / 1e6, 1) == 5.2


def test_parts_have_the_published_names():
    with torch.device("meta"):
        names = {name for name, _ in Inpainting(ModelConfig()).named_modules()}
    levels = {f"encoder_layers.{level}.{count - 1}" for level, count in enumerate((4, 6, 6, 8))}
    levels |= {f"decoder_layers.{level}.{count - 1}" for level, count in enumerate((6, 6, 4))}
    steps = {f"{way}sample_layers.{number}.0" for way in ("down", "up") for number in range(3)}
    norms = {
        f"refinement_ffc.scales.{number}.ffc.{part}"
        for number in range(3)
        for part in ("local_conv.1", "global_conv.bn", "freq_gate.1")
    }
    assert names >= levels | steps | norms | {"input_conv", "bottleneck_fass", "refinement_ffc.fusion", "output"}
    assert not names & {"encoder_layers.0.4", "encoder_layers.4", "decoder_layers.3", "downsample_layers.3"}


def test_only_the_refinement_has_state_that_a_forward_pass_changes(plain):
    buffers = [name for name in plain.state_dict() if name not in dict(plain.named_parameters())]
    assert buffers
    assert all(name.startswith("refinement_ffc.") for name in buffers)


@pytest.mark.parametrize(
    "changed",
    [
        {"use_mamba": False},
        {"use_fass": False},
        {"use_ffc": False},
        {"fass_no_b": True},
        {"fass_no_c": True},
        {"fass_no_delta": True},
        {"ssm": "ssd"},
        {"masked": True},
        {"d_state": 5},
        {"d_conv": 3},
        {"expand": 1},
    ],
    ids=str,
)
def test_each_setting_changes_what_is_learnt(changed, plain):
    assert parameters(network(**changed)) != parameters(plain)


@pytest.mark.parametrize(
    ("changed", "gone"),
    [
        ({"use_mamba": False}, ".scan."),
        ({"use_fass": False}, "bottleneck_fass."),
        ({"use_fass": False}, ".factors."),
        ({"use_ffc": False}, "refinement_ffc."),
        ({"fass_no_b": True}, ".factors.structure."),
        ({"fass_no_c": True}, ".factors.texture."),
        ({"fass_no_delta": True}, ".factors.edges."),
    ],
    ids=str,
)
def test_each_ablation_takes_out_what_it_says_and_nothing_else(changed, gone, plain):
    others = {name for name in plain.state_dict() if gone not in name and "bottleneck_fass." not in name}
    left = set(network(**changed).state_dict())
    assert not any(gone in name for name in left)
    if changed != {"use_fass": False}:
        assert others <= left


@pytest.mark.parametrize("setting", [{"wavelet": "db3"}, {"half_fft": True}], ids=str)
def test_settings_without_parameters_change_the_output(setting, plain):
    changed = network(**setting)
    changed.load_state_dict(plain.state_dict())
    assert not torch.equal(changed.eval()(images()), plain.eval()(images()))


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"ssm": "ssd"},
        {"masked": True},
        *({name: False} for name in ("use_mamba", "use_fass", "use_ffc")),
        {"use_mamba": False, "use_fass": False, "use_ffc": False},
        *({name: True} for name in ("fass_no_b", "fass_no_c", "fass_no_delta")),
    ],
    ids=str,
)
def test_every_parameter_learns(setting):  # of several processes each waits for the gradient of every one
    model = network(**setting)
    mask = torch.zeros(2, 1, 32, 32) if model.config.masked else None
    if mask is not None:
        mask[..., 8:16, 8:16] = 1
    model(images(), mask).square().mean().backward()
    idle = [name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()]
    assert not idle


def test_training_lowers_the_loss():
    model = network()
    damaged = images(16, 16)
    target = damaged.flip(-1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (model(damaged) - target).abs().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_the_mask_is_seen():
    model = network(masked=True).eval()
    empty = torch.zeros(2, 1, 32, 32)
    assert not torch.equal(model(images(), empty), model(images(), 1 - empty))


@pytest.mark.parametrize(("masked", "message"), [(True, "a mask must be given"), (False, "no mask is expected")])
def test_a_mask_too_few_or_too_many_is_told(masked, message):
    with pytest.raises(ValueError, match=message):
        network(masked=masked)(images(), None if masked else torch.zeros(2, 1, 32, 32))


def test_a_mask_of_another_shape_is_told():
    with pytest.raises(ValueError, match=r"Masks are \[2, 1, 32, 31\]; expected \[2, 1, 32, 32\]"):
        network(masked=True)(images(), torch.zeros(2, 1, 32, 31))


@pytest.mark.parametrize("shape", [(2, 3, 15, 32), (2, 4, 32, 32), (3, 32, 32)])
def test_pictures_that_do_not_fit_are_told(shape, plain):
    with pytest.raises(ValueError, match="H and W of 16 or more"):
        plain(torch.zeros(shape))


def test_bfloat16_trains_and_leaves_all_finite():
    model = network()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(images(16, 16)).float().square().mean()
    loss.backward()
    assert all(buffer.isfinite().all() for buffer in model.buffers())
    assert all(each.grad.isfinite().all() for each in model.parameters())


@pytest.mark.parametrize(("half_fft", "finite"), [(True, False), (False, True)])
def test_only_the_broken_cast_lets_a_smooth_picture_poison_the_statistics(half_fft, finite):
    """A spectrum's peak grows with the pixels: here each of 16 x 16 counts as much as 32 x 32 of 512 x 512."""
    model = network(half_fft=half_fft)
    for scale in model.refinement_ffc.scales:
        scale.norm.weight.data *= 32**2
    model(torch.linspace(0, 1, 16).expand(2, 3, 16, 16))
    assert all(buffer.isfinite().all() for buffer in model.buffers()) is finite


def test_pictures_are_restored_one_by_one(plain):
    model = plain.eval()
    torch.testing.assert_close(model(images())[1:], model(images()[1:]), atol=1e-5, rtol=0)


def test_the_weights_of_one_network_load_into_another():
    source, target = network(), network()
    source.input_conv.weight.data += 1
    load_weights(target, source.state_dict())
    assert torch.equal(target.eval()(images()), source.eval()(images()))


def test_weights_without_gates_on_the_skips_load_with_open_gates():
    source, target = network(), network()
    for gate in target.skip_gates.parameters():
        nn.init.ones_(gate)
    load_weights(target, {key: each for key, each in source.state_dict().items() if not key.startswith("skip_gates")})
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(source.eval()(image), target.eval()(image))


def test_a_gate_closes_and_doubles_a_skip():
    model = network()
    gate = model.skip_gates[0]
    features, skipped = torch.rand(2, 1, gate.gate.out_channels, 4, 4)
    assert torch.equal(gate(features, skipped), features + skipped)
    for bias, factor in ((-100.0, 0.0), (100.0, 2.0)):
        nn.init.constant_(gate.gate.bias, bias)
        assert torch.allclose(gate(features, skipped), features + factor * skipped)
