"""Which modules are meant, and which look as if they overflow."""

import pytest
import torch
from torch import nn

import torchmend
from overflowing import Attention, Fourier, Late, RmsNorm
from torchmend.live.stabilising.choosing import MANY_INPUTS
from torchmend.live.stabilising.float32 import in_float32


def network():
    blocks = nn.ModuleList(nn.ModuleDict({"norm": RmsNorm(), "mix": nn.Linear(32, 32)}) for _ in range(2))
    return nn.ModuleDict({"blocks": blocks, "head": nn.Linear(32, 4)})


WANTED = {
    "a name": ("head", ("head",)),
    "several names": (["head", "blocks.0.mix"], ("blocks.0.mix", "head")),
    "a pattern": ("blocks.*.norm", ("blocks.0.norm", "blocks.1.norm")),
    "a class": (nn.Linear, ("blocks.0.mix", "blocks.1.mix", "head")),
    "a class and a name": ([RmsNorm, "head"], ("blocks.0.norm", "blocks.1.norm", "head")),
    "one inside another": (["blocks.0", "blocks.0.norm"], ("blocks.0",)),
    "the model by its class": ("ModuleDict", ("",)),
    "nothing": ([], ()),
}


@pytest.mark.parametrize(("wanted", "found"), WANTED.values(), ids=WANTED)
def test_modules_are_found_by(wanted, found):
    assert torchmend.stabilise(network(), modules=wanted).modules == found


def test_the_model_itself_is_called_by_its_class():
    (change,) = torchmend.stabilise(network(), modules="").changes
    assert change.place == "ModuleDict"


def test_an_unknown_name_is_refused_with_close_ones():
    with pytest.raises(torchmend.UserError, match=r"No module is called 'blocks.0.nrm'. Close ones: blocks.0.norm"):
        torchmend.stabilise(network(), modules="blocks.0.nrm")


def test_an_unknown_name_changes_nothing_of_the_others():
    model = network()
    with pytest.raises(torchmend.UserError):
        torchmend.stabilise(model, modules=["head", "tail"])
    assert type(model["head"]) is nn.Linear


def test_a_class_that_the_model_has_not_is_refused():
    with pytest.raises(torchmend.UserError, match=r"There is no LSTM in the model"):
        torchmend.stabilise(network(), modules=nn.LSTM)


def test_a_part_of_attention_that_is_never_called_is_refused():
    with pytest.raises(torchmend.UserError, match=r"attention.out_proj is never called: .* Name attention instead"):
        torchmend.stabilise(Late(), modules="attention.out_proj")


def test_a_shared_module_is_changed_once():
    shared = nn.Linear(4, 4)
    assert torchmend.stabilise(nn.Sequential(shared, shared), modules=["0", "1"]).modules == ("0",)


def test_without_a_batch_the_structure_decides():
    model = nn.ModuleDict(
        {
            "fourier": Fourier(),
            "norm": RmsNorm(),
            "attention": Attention(),
            "late": nn.MultiheadAttention(8, 2),
            "large": nn.Linear(MANY_INPUTS, 2),
            "small": nn.Linear(8, 2),
            "layer_norm": nn.LayerNorm(8),
        }
    )
    changes = torchmend.stabilise(model).changes
    assert [each.place for each in changes] == ["fourier", "norm", "attention", "late", "large"]
    assert changes[0].reason == "its code takes a Fourier transform, whose first coefficient is a sum over all points"


def test_a_transform_in_a_function_that_is_called_is_not_seen_without_a_batch():
    def transformed(rows):
        return torch.view_as_real(torch.fft.rfft(rows)).flatten(1)

    class Hidden(nn.Module):
        def forward(self, rows):
            return transformed(rows)

    assert torchmend.stabilise(nn.Sequential(Hidden())).changes == ()


def test_what_is_no_module_is_a_type_error():
    with pytest.raises(TypeError, match=r"Got a dict as model. Pass a torch.nn.Module"):
        torchmend.stabilise({})


def test_a_single_change_stands_by_itself():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    with in_float32(model, "0", reason="tried") as handle:
        assert [(each.place, each.reason) for each in handle.changes] == [("0", "tried")]
        assert model[1].eps == 1e-5
    assert type(model[0]) is nn.Linear


def test_negative_headroom_is_refused():
    with pytest.raises(torchmend.UserError, match="headroom is -1"):
        torchmend.stabilise(network(), headroom=-1)
