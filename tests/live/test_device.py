"""The way of other devices, forced upon CPU tensors: one transfer for a healthy model, two for a damaged one."""

import pytest
import torch
from torch import nn

import checkpoints
from torchmend.live.device import SMALL
from torchmend.live.source import LiveSource
from torchmend.repairs.patches import patches
from torchmend.rules.judge import judge

NAN, INF = float("nan"), float("inf")


class Wide(nn.Module):
    """A model with tensors too large to travel whole."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(32, 64, 5, dtype=dtype)
        self.norm = nn.BatchNorm2d(64, dtype=dtype)
        self.head = nn.Linear(64, 300, dtype=dtype)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2.0)
        self.norm.num_batches_tracked.fill_(7)


@pytest.fixture
def reads(monkeypatch):
    """Count what waits for the device: copies to the host and reads of numbers."""
    seen = []
    for name in ("cpu", "item", "tolist", "__bool__", "__float__", "__int__"):
        original = getattr(torch.Tensor, name)

        def spy(self, *args, _name=name, _original=original, **kwargs):
            seen.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, spy)
    return seen


def sources(network, optimizer=None):
    return LiveSource(network, optimizer), LiveSource(network, optimizer, as_device=True)


def trained():
    network = Wide()
    optimizer = torch.optim.AdamW(network.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        network.head(network.norm(network.conv(torch.randn(4, 32, 5, 5))).flatten(1)).square().mean().backward()
        optimizer.step()
    return network, optimizer


def test_a_healthy_model_takes_one_transfer(reads):
    source = LiveSource(Wide(), as_device=True)
    assert not judge(source)
    assert source.transfers.count == 1
    assert reads.count("cpu") == 1
    assert "item" not in reads


def test_a_healthy_model_with_its_optimizer_takes_one_transfer(reads):
    source = LiveSource(*trained(), as_device=True)
    reads.clear()
    assert not judge(source)
    assert (source.transfers.count, reads.count("cpu")) == (1, 1)


def test_a_damaged_statistic_comes_with_the_first_transfer():
    network = Wide()
    network.norm.running_mean[3] = NAN
    source = LiveSource(network, as_device=True)
    (finding,) = judge(source)
    assert finding.measure.bad_channels == (3,)
    assert source.transfers.count == 1


def test_damaged_weights_all_come_with_a_second_transfer():
    network = Wide()
    network.conv.weight.data[0, 0, 0, 0] = NAN
    network.head.weight.data[0, :3] = INF
    source = LiveSource(network, as_device=True)
    assert {(f.ref.name, f.measure.nan, f.measure.inf) for f in judge(source)} == {
        ("conv.weight", 1, 0),
        ("head.weight", 0, 3),
    }
    assert source.transfers.count == 2


def test_a_pack_is_limited(monkeypatch):
    monkeypatch.setattr("torchmend.live.device.LARGEST_PACK", 1 << 16)
    network = Wide()
    network.conv.weight.data[0, 0, 0, 0] = NAN
    network.head.weight.data[0, 0] = NAN
    source = LiveSource(network, as_device=True)
    assert len(judge(source)) == 2
    assert source.transfers.count == 3


def set_all(value):
    return lambda network, _: network.head.weight.data.fill_(value)


def element(name, value):
    def damage(network, _):
        network.get_parameter(name).data.view(-1)[5] = value

    return damage


def moment(name, value):
    def damage(network, optimizer):
        optimizer.state[network.head.weight][name].view(-1)[7] = value

    return damage


DAMAGE = {
    "none": lambda network, _: None,
    "Inf": element("conv.weight", INF),
    "NaN": element("head.weight", NAN),
    "beyond float16": element("head.weight", 1e9),
    "all zero": set_all(0.0),
    "constant": set_all(3.0),
    "nearly constant": lambda n, _: (n.head.weight.data.fill_(3.0), n.head.weight.data.view(-1)[-1].fill_(2.0)),
    "negative second moment": moment("exp_avg_sq", -1.0),
    "infinite second moment": moment("exp_avg_sq", INF),
    "NaN first moment": moment("exp_avg", NAN),
    "channels last": lambda n, _: n.to(memory_format=torch.channels_last) and None,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_the_device_gives_the_measures_and_findings_of_the_host(damage):
    network, optimizer = trained()
    damage(network, optimizer)
    here, there = sources(network, optimizer)
    assert there.measures == here.measures
    assert judge(there) == judge(here)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [None, NAN, INF, -INF])
def test_every_type_is_screened_exactly(dtype, value):
    network = Wide(dtype)
    if value is not None:
        network.conv.weight.data[1, 2, 3, 4] = value
    here, there = sources(network)
    assert there.measures == here.measures


EXOTIC = [
    torch.float8_e5m2,
    torch.float8_e4m3fn,
    torch.float8_e5m2fnuz,
    torch.float8_e4m3fnuz,
    torch.float8_e8m0fnu,
    torch.complex64,
]


@pytest.mark.parametrize("dtype", EXOTIC)
@pytest.mark.parametrize("broken", [False, True])
def test_float8_and_complex_tensors_are_screened_exactly(dtype, broken):
    weight = torch.rand(100, 100).to(dtype)
    if broken:
        weight.view(torch.uint8 if dtype.itemsize == 1 else torch.float32).view(-1)[5] = (
            torch.tensor(NAN).to(dtype).view(torch.uint8) if dtype.itemsize == 1 else NAN
        )
    here, there = sources({"weight": weight, "bias": torch.zeros(3, dtype=torch.bool)})
    assert there.measures == here.measures
    assert bool(judge(there)) is broken


@pytest.mark.parametrize("shape", [(), (0,), (1,), (SMALL,), (SMALL + 1,), (3, 0), (1, SMALL + 1)])
def test_every_size_is_screened(shape):
    here, there = sources({"weight": torch.ones(shape)})
    assert there.measures == here.measures


def test_strided_and_expanded_tensors_are_screened():
    state = {
        "a.weight": torch.randn(200, 200)[::2, ::2],
        "b.weight": torch.randn(1, 100).expand(100, 100),
        "c.weight": torch.randn(100, 100).t(),
        "d.weight": torch.randn(100, 100)[:, -1:].expand(100, 100),
    }
    here, there = sources(state)
    assert there.measures == here.measures


def test_vectors_sums_and_raw_elements_are_those_of_the_host():
    here, there = sources(Wide())
    assert judge(there) == judge(here)
    for one, other in zip(here.refs, there.refs, strict=True):
        assert (here.raw(one) == there.raw(other)).all()
    mean = next(ref for ref in here.refs if ref.leaf == "running_mean")
    assert (here.vector(mean) == there.vector(mean)).all()
    conv = here.refs[0]
    assert all((a == b).all() for a, b in zip(here.row_sums(conv, 0), there.row_sums(conv, 0), strict=True))


def test_elements_are_written_on_the_device():
    network = Wide()
    network.norm.running_mean[[3, 5]] = NAN
    source = LiveSource(network, as_device=True)
    from torchmend.live.diagnosing import diagnose_source
    from torchmend.live.repairing import apply_plan
    from torchmend.repairs.planning import plan_repair

    plan = plan_repair(diagnose_source(source), source)
    assert [len(list(patches(edit, source, {}))) for edit in plan.edits] == [1]
    apply_plan(plan, source, {})
    assert network.norm.running_mean.isfinite().all()


def test_checkpoints_with_counters_and_numbers_take_one_transfer():
    source = LiveSource(checkpoints.training_checkpoint(), as_device=True)
    assert not judge(source)
    assert source.transfers.count == 1
