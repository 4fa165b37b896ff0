"""A live object and the file that it is saved to get the same verdict."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

import checkpoints
import torchmend
from torchmend.doctor.diagnosing import diagnose_source
from torchmend.doctor.file_source import FileSource
from torchmend.facts.codes import Code, Severity
from torchmend.facts.tensors import Role
from torchmend.live.diagnosing import diagnose_live
from torchmend.reports.text import diagnosis_text

NAN = float("nan")

DAMAGE = [
    lambda c: c,
    checkpoints.infinite_mean,
    checkpoints.nan_channels,
    lambda c: checkpoints.nan_channels(c, name=checkpoints.VAR),
    checkpoints.negative_variance,
    checkpoints.nan_weight,
    lambda c: checkpoints.nan_weight(c, [1], checkpoints.HEAD_BIAS),
    checkpoints.infinite_second_moment,
    checkpoints.negative_second_moment,
    checkpoints.nan_first_moment,
    lambda c: checkpoints.set_elements(c, checkpoints.CONV_WEIGHT, 0.0),
    lambda c: checkpoints.set_elements(c, checkpoints.CONV_WEIGHT, 3.0),
    lambda c: checkpoints.set_elements(c, checkpoints.VAR, 1e30, [2]),
    lambda c: c | {"best_psnr": float("nan"), "counts": torch.tensor([1.0, float("nan")])},
    lambda c: {"ema": {"shadow": c["model_state_dict"]}, "history": [{"loss": float("inf")}], "args": (1, "x", None)},
]


def verdicts(diagnosis):
    return [(f.code, f.severity, f.place, f.ref and f.ref.container, f.measure, f.detail) for f in diagnosis.findings]


def described(diagnosis):
    return [(r.container, r.name, r.shape, r.dtype, r.role, r.param, r.group, r.averaged) for r in diagnosis.refs]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_checkpoint_gets_the_same_diagnosis_in_memory_as_in_a_file(tmp_path, damage):
    checkpoint = damage(checkpoints.training_checkpoint())
    live = torchmend.diagnose(checkpoint)
    with FileSource(checkpoints.save(checkpoint, tmp_path / "x.pth")) as source:
        source.exact = True
        saved = diagnose_source(source)
    assert verdicts(live) == verdicts(saved)
    assert described(live) == described(saved)
    assert list(live.measures.values()) == list(saved.measures.values())
    assert [(s.path, repr(s.value)) for s in live.scalars] == [(s.path, repr(s.value)) for s in saved.scalars]
    assert live.main == saved.main


def test_a_whole_pickled_module_gets_the_same_diagnosis_in_memory_as_in_a_file(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    network[1].running_mean[2] = float("nan")
    checkpoint = {"model": network, "epoch": 3}
    live, saved = torchmend.diagnose(checkpoint), torchmend.diagnose(checkpoints.save(checkpoint, tmp_path / "x.pth"))
    assert verdicts(live) == verdicts(saved) != []
    assert described(live) == described(saved)


def test_a_module_gets_the_findings_of_its_state_dict():
    network = checkpoints.Network()
    network.load_state_dict(checkpoints.infinite_mean(checkpoints.training_checkpoint())["model_state_dict"])
    assert verdicts(torchmend.diagnose(network)) == verdicts(torchmend.diagnose(network.state_dict()))


def test_a_healthy_model_is_healthy():
    diagnosis = torchmend.diagnose(checkpoints.Network())
    assert (diagnosis.healthy, diagnosis.findings) == (True, ())
    assert (diagnosis.source, diagnosis.format) == ("live Network", "live model")


def test_progress_is_told_of_every_byte():
    seen = []
    diagnosis = torchmend.diagnose(checkpoints.Network(), progress=lambda done, total: seen.append((done, total)))
    assert sum(done for done, _ in seen) == diagnosis.scanned == seen[0][1] == diagnosis.nbytes


def test_a_diagnosis_does_not_keep_the_model_alive_and_can_be_pickled():
    diagnosis = torchmend.diagnose(checkpoints.Network())
    assert pickle.loads(pickle.dumps(diagnosis)) == diagnosis


def test_a_model_can_be_copied_and_pickled_after_a_diagnosis():
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    before = pickle.dumps(network)
    torchmend.diagnose(network)
    assert pickle.dumps(network) == before
    assert torchmend.diagnose(copy.deepcopy(network)).healthy


def test_buffers_that_are_not_saved_are_looked_at():
    network = nn.Linear(2, 2)
    network.register_buffer("table", torch.tensor([1.0, float("nan")]), persistent=False)
    (finding,) = torchmend.diagnose(network).findings
    assert (finding.code, finding.ref.name) == (Code.WEIGHT_NOT_FINITE, "table")


def test_tied_weights_are_listed_under_every_name_and_share_a_storage():
    network = nn.ModuleDict({"embed": nn.Embedding(7, 5), "head": nn.Linear(5, 7, bias=False)})
    network["head"].weight = network["embed"].weight
    embed, head = torchmend.diagnose(network).refs
    assert (embed.name, head.name) == ("embed.weight", "head.weight")
    assert embed.storage == head.storage


def test_ddp_like_and_compiled_wrappers_only_add_to_the_names():
    network = nn.BatchNorm1d(3)
    network.running_mean[0] = float("inf")
    wrapped = nn.Module()
    wrapped.module = network
    assert torchmend.diagnose(wrapped).findings[0].ref.name == "module.running_mean"
    compiled = torch.compile(network, backend="eager")
    assert torchmend.diagnose(compiled).findings[0].ref.name == "_orig_mod.running_mean"


def test_lazy_and_meta_tensors_are_skipped_with_a_reason_and_are_no_fault():
    network = nn.ModuleList([nn.LazyBatchNorm2d(), nn.Linear(2, 2, device="meta"), nn.LazyLinear(3)])
    diagnosis = torchmend.diagnose(network)
    reasons = {each.reason.partition(":")[0] for each in diagnosis.skipped}
    assert reasons == {"a lazy parameter", "a meta tensor"}
    assert diagnosis.healthy


class Opaque(torch.Tensor):
    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError("looked into")


def test_a_tensor_that_computes_its_elements_is_skipped_and_the_diagnosis_is_not_complete():
    opaque = torch.Tensor._make_subclass(Opaque, torch.zeros(3))
    diagnosis = torchmend.diagnose({"weight": opaque, "bias": torch.zeros(3)})
    (skipped,) = diagnosis.skipped
    assert "Opaque" in skipped.reason
    assert not diagnosis.checked
    assert diagnosis.worst is Severity.NOTE


class Tagged(nn.Parameter):
    """A parameter subclass with attributes, as quantisation libraries have them."""


def test_a_plain_subclass_of_parameter_is_looked_at():
    network = nn.Linear(2, 2)
    network.weight = Tagged(torch.full((2, 2), float("nan")))
    assert torchmend.diagnose(network).findings[0].code is Code.WEIGHT_NOT_FINITE


def test_the_local_part_of_a_distributed_tensor_is_looked_at():
    class DTensor(Opaque):
        pass

    shard = torch.tensor([1.0, float("nan")])
    distributed = torch.Tensor._make_subclass(DTensor, torch.zeros(4))
    distributed._local_tensor = shard
    (finding,) = torchmend.diagnose({"weight": distributed}).findings
    assert finding.measure.nan == 1
    assert finding.ref.shape == (2,)


@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr", "to_sparse_csc"])
def test_the_parts_of_a_sparse_tensor_have_the_names_of_a_saved_one(tmp_path, layout):
    checkpoint = {"weight": getattr(torch.tensor([[0.0, float("nan")], [1.0, 0.0]]), layout)(), "bias": torch.zeros(2)}
    live, saved = torchmend.diagnose(checkpoint), torchmend.diagnose(checkpoints.save(checkpoint, tmp_path / "x.pth"))
    assert described(live) == described(saved)
    assert verdicts(live) == verdicts(saved)


# Optimizers


def trained(kind=torch.optim.AdamW, **options):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    optimizer = kind(network.parameters(), **options)
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.randn(6, 4)).square().mean().backward()
        optimizer.step()
    return network, optimizer


OPTIMIZERS = [
    (torch.optim.AdamW, {}),
    (torch.optim.AdamW, {"fused": True}),
    (torch.optim.Adam, {"amsgrad": True, "foreach": True}),
    (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
    (torch.optim.SGD, {"lr": 0.01}),
]


@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS)
def test_an_optimizer_gives_the_refs_of_its_saved_state(tmp_path, kind, options):
    network, optimizer = trained(kind, **options)
    live = torchmend.diagnose(network, optimizer)
    path = checkpoints.save({"optimizer": optimizer.state_dict()}, tmp_path / "x.pth")
    saved = [(r.path, r.shape, r.dtype, r.role) for r in torchmend.diagnose(path).refs]
    assert [(r.path, r.shape, r.dtype, r.role) for r in live.refs if r.container == "optimizer"] == saved
    assert live.healthy


def test_moments_know_their_parameters_by_identity_whatever_the_order():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimizer = torch.optim.AdamW([*reversed(list(network.parameters()))])
    network(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    owners = {r.name: r.param for r in torchmend.diagnose(network, optimizer).refs if r.leaf == "exp_avg"}
    assert owners == {
        "state.0.exp_avg": "1.bias",
        "state.1.exp_avg": "1.weight",
        "state.2.exp_avg": "0.bias",
        "state.3.exp_avg": "0.weight",
    }


def test_moments_know_their_parameters_beside_a_state_dict_too():
    network, optimizer = trained()
    refs = torchmend.diagnose({"model": network.state_dict()}, optimizer).refs
    assert {r.param for r in refs if r.role is Role.FIRST_MOMENT} == {
        f"model.{n}" for n, _ in network.named_parameters()
    }


def test_a_state_dict_of_an_optimizer_serves_as_well():
    network, optimizer = trained()
    optimizer.state[network[0].weight]["exp_avg_sq"][0, 0] = -1.0
    as_object, as_state = torchmend.diagnose(network, optimizer), torchmend.diagnose(network, optimizer.state_dict())
    assert verdicts(as_object) == verdicts(as_state)
    assert as_object.findings[0].code is Code.SECOND_MOMENT_NEGATIVE


def test_learning_rates_are_scalars_of_the_optimizer():
    network, optimizer = trained()
    optimizer.param_groups[0]["lr"] = float("nan")
    (finding,) = torchmend.diagnose(network, optimizer).findings
    assert finding.code is Code.LEARNING_RATE
    assert finding.scalar.path == ("optimizer", "param_groups", 0, "lr")


def test_an_optimizer_beside_a_checkpoint_with_one_has_a_name_of_its_own():
    network, optimizer = trained()
    containers = {r.container for r in torchmend.diagnose({"m": network, "optimizer": optimizer}, optimizer).refs}
    assert containers == {"m", "optimizer", "the given optimizer"}


def test_the_state_of_lbfgs_may_be_lists_of_tensors():
    network, optimizer = trained()
    optimizer = torch.optim.LBFGS(network.parameters())

    def closure():
        optimizer.zero_grad()
        loss = network(torch.ones(3, 4)).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torchmend.diagnose(network, optimizer).healthy


@pytest.mark.parametrize("source", [3, None, [nn.Linear(2, 2)], torch.zeros(3), nn.Linear, b"x.pth"])
def test_a_source_of_another_kind_is_a_type_error_that_lists_what_is_taken(source):
    with pytest.raises(TypeError, match=r"Pass .*(state dict|Module)"):
        torchmend.diagnose(source)
    with pytest.raises(TypeError, match="state dict"):
        diagnose_live(source)


@pytest.mark.parametrize("optimizer", [nn.Linear(2, 2), {"lr": 1}, "adam"])
def test_an_optimizer_of_another_kind_is_a_type_error(optimizer):
    with pytest.raises(TypeError, match=r"torch.optim.Optimizer or its state_dict"):
        torchmend.diagnose(nn.Linear(2, 2), optimizer)


# Uncommon things


def test_a_scripted_module_is_looked_at():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit says that it will go
        scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    scripted.state_dict()["1.running_mean"][0] = NAN
    assert [f.ref.name for f in torchmend.diagnose(scripted).damaged] == ["1.running_mean"]
    assert torchmend.sanitize_model_bn_stats(scripted, verbose=False) == 1


def test_quantised_and_packed_tensors_are_listed_and_not_interpreted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch says that these will go
        quantised = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
    state = {
        "weight": torch.zeros(4),
        "quantised": quantised,
        "packed": torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
    }
    diagnosis = torchmend.diagnose(state)
    assert {ref.name for ref in diagnosis.refs} == {"weight", "quantised", "packed"}
    assert diagnosis.healthy
    network = nn.Module()
    network.register_buffer("packed", state["packed"])
    assert torchmend.check_model_health(network, check_weights=True) == (True, [])


def test_a_nested_tensor_is_skipped_with_a_reason():
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    (skipped,) = torchmend.diagnose({"weight": torch.ones(2), "nested": nested}).skipped
    assert "nested" in skipped.reason


def test_tensors_without_elements_are_sound():
    network = nn.Sequential(nn.BatchNorm1d(0), nn.Linear(4, 4))
    optimizer = torch.optim.AdamW(network.parameters())
    assert torchmend.diagnose(network, optimizer).healthy
    assert torchmend.check_model_health(network, check_weights=True)[0]


def test_the_loss_scale_of_a_scaler_is_judged_and_repaired():
    checkpoint = {"model": nn.Linear(2, 2), "scaler": torch.amp.GradScaler("cpu").state_dict()}
    checkpoint["scaler"]["scale"] = 0.0
    assert [f.code for f in torchmend.diagnose(checkpoint).findings] == [Code.SCALER_BROKEN]
    assert torchmend.repair(checkpoint).succeeded
    assert checkpoint["scaler"]["scale"] == 65536.0


def test_a_cycle_of_containers_ends():
    checkpoint = {"weight": torch.ones(2)}
    checkpoint["self"] = checkpoint
    assert len(torchmend.diagnose(checkpoint).refs) == 1


def test_a_live_diagnosis_can_be_rendered():
    network = nn.BatchNorm1d(3)
    network.running_mean[0] = NAN
    text = diagnosis_text(torchmend.diagnose(network))
    assert "live BatchNorm1d" in text
    assert "TM101" in text


@pytest.mark.parametrize("odd", [torch.ones(2).to_mkldnn, lambda: torch.zeros(4, dtype=torch.uint8).view(torch.uint4)])
def test_a_layout_or_type_that_is_not_known_is_skipped_with_a_reason(odd):
    (skipped,) = torchmend.diagnose({"weight": torch.ones(2), "odd": odd()}).skipped
    assert skipped.ref.name == "odd"
    assert "which torchmend does not" in skipped.reason
