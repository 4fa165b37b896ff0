"""Models in the wrappers of others."""

import pytest
import torch
from torch import nn

import torchmend
from overflowing import RmsNorm, late_attention, outputs, rms


@pytest.fixture
def compiled():
    model, batch = rms()
    yield torch.compile(model, backend="eager", fullgraph=True), batch
    torch._dynamo.reset()


def test_a_model_that_has_been_compiled_and_run_is_compiled_anew(compiled):
    model, batch = compiled
    broken = outputs(model, batch)
    wanted = outputs(model, batch, half=False)
    handle = torchmend.stabilise(model, batch=batch)
    assert (outputs(model, batch) - wanted).abs().max() < 0.01
    handle.undo()
    assert torch.equal(outputs(model, batch), broken)


def test_a_stabilised_model_can_be_compiled_afterwards(compiled):
    model, batch = compiled
    wanted = outputs(model, batch, half=False)
    torch._dynamo.reset()
    torchmend.stabilise(model, modules=RmsNorm)
    assert (outputs(model, batch) - wanted).abs().max() < 0.01


@pytest.fixture
def distributed(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("distributed")
def test_a_model_inside_ddp_is_stabilised_and_trains():
    inner, batch = rms()
    wanted = outputs(inner, batch, half=False)
    model = nn.parallel.DistributedDataParallel(inner)
    handle = torchmend.stabilise(model, batch=batch, measure=True)
    assert handle.modules == ("1",)
    assert (outputs(model, batch) - wanted).abs().max() < 0.01
    outputs(model, batch).square().mean().backward()
    assert all(each.grad.isfinite().all() for each in model.parameters())


def test_names_with_the_wrappers_in_them_are_understood():
    model, _ = rms()
    assert torchmend.stabilise(model, modules=["module.1", "_orig_mod.2"]).modules == ("1", "2")


def test_torchscript_is_refused():
    with pytest.raises(
        torchmend.UserError, match=r"is TorchScript, which runs its own code.* Stabilise the module before"
    ):
        torchmend.stabilise(scripted(nn.Linear(3, 3)))


def test_torchscript_inside_a_model_is_refused_by_name():
    model = nn.Sequential(nn.ReLU(), scripted(nn.Linear(3, 3)))
    with pytest.raises(torchmend.UserError, match="1 cannot be put into float32: it is TorchScript"):
        torchmend.stabilise(model, modules="1")


def scripted(module):
    with pytest.warns(DeprecationWarning, match="script"):
        return torch.jit.script(module)


def test_a_forward_that_was_replaced_on_the_object_is_refused():
    model, _ = rms()
    model[1].forward = model[1].forward
    with pytest.raises(torchmend.UserError, match="1 cannot be put into float32: its forward was replaced"):
        torchmend.stabilise(model, modules="1")


def test_the_fast_path_of_a_transformer_layer_does_not_leave_a_module_out():
    layer = nn.TransformerEncoderLayer(32, 2, 16, batch_first=True).eval()
    _, batch = late_attention()
    with torchmend.stabilise(layer, modules="self_attn"), torch.no_grad(), torch.autocast("cpu", torch.float16):
        assert layer(batch).dtype is torch.float32
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        assert layer(batch).dtype is torch.float16


def test_a_recurrent_layer_with_weights_in_float16_is_refused():
    with pytest.raises(torchmend.UserError, match=r"LSTM cannot be put into float32: .* Call .float\(\) on it"):
        torchmend.stabilise(nn.LSTM(3, 3).half(), modules="LSTM")


def test_a_layer_that_keeps_its_statistics_in_float16_is_refused_by_name():
    model = nn.Sequential(nn.BatchNorm1d(4).half())
    with pytest.raises(torchmend.UserError, match=r"its buffer running_mean is kept in float16. Call .float\(\) on it"):
        torchmend.stabilise(model, modules="0")


def test_what_cannot_be_named_is_left_out_if_it_is_only_found():
    model, batch = rms()
    model[1].forward = model[1].forward
    handle = torchmend.stabilise(model, batch=batch)
    assert handle.changes == ()
    assert "its forward was replaced on the object" in handle.left_out[0].reason


def test_an_averaged_model_is_stabilised_by_the_names_of_its_own():
    model, batch = rms()
    wanted = outputs(model, batch, half=False)
    handle = torchmend.stabilise(model, batch=batch)
    average = torch.optim.swa_utils.AveragedModel(model)
    torchmend.stabilise(average.module, modules=handle.modules)
    assert (outputs(average, batch) - wanted).abs().max() < 0.01


def test_an_exported_model_computes_in_float32_too():
    model, batch = rms()
    wanted = outputs(model, batch, half=False)
    torchmend.stabilise(model, batch=batch)
    with torch.autocast("cpu", torch.float16):
        exported = torch.export.export(model, (batch,)).module()
        assert (exported(batch) - wanted).abs().max() < 0.01
