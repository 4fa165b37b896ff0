"""Overflows in float16 that really happen are found on a batch and are gone afterwards."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import torchmend
from benchmarks.faults.cases import CASES
from benchmarks.faults.tasks import batch as digits
from overflowing import (
    FAULTS,
    Attention,
    HandCast,
    RmsNorm,
    attention,
    batch_norm,
    fourier,
    gradients,
    late_attention,
    outputs,
    rms,
)

every_fault = pytest.mark.parametrize(("make", "guilty"), FAULTS.values(), ids=FAULTS)


def differences(found, wanted):
    """Return the largest difference of each pair, as a share of the largest wanted value of all of them."""
    largest = max(float(each.detach().abs().max()) for each in wanted)
    return [float((one - two).detach().abs().max()) / largest for one, two in zip(found, wanted, strict=True)]


def twins(make):
    model, batch = make()
    return model, copy.deepcopy(model), batch


@every_fault
def test_without_it_the_network_is_far_from_what_it_is_in_float32(make, guilty):
    model, twin, batch = twins(make)
    (difference,) = differences([outputs(model, batch)], [outputs(twin, batch, half=False)])
    assert not difference < 0.3


@every_fault
def test_with_it_outputs_are_those_of_float32(make, guilty):
    model, twin, batch = twins(make)
    torchmend.stabilise(model, batch=batch, norms=False)
    assert differences([outputs(model, batch)], [outputs(twin, batch, half=False)])[0] < 0.01


@every_fault
def test_with_it_gradients_are_finite_and_those_of_float32(make, guilty):
    model, twin, batch = twins(make)
    torchmend.stabilise(model, batch=batch, norms=False)
    found, wanted = gradients(model, batch), gradients(twin, batch, half=False)
    assert all(each.isfinite().all() for each in found)
    assert max(differences(found, wanted)) < 0.02


@every_fault
def test_the_guilty_modules_are_found_and_no_others(make, guilty):
    model, batch = make()
    handle = torchmend.stabilise(model, batch=batch, norms=False, headroom=0)
    assert handle.modules == guilty
    assert not handle.left_out


@every_fault
def test_naming_them_does_the_same_without_a_batch(make, guilty):
    model, twin, batch = twins(make)
    torchmend.stabilise(model, modules=guilty, norms=False)
    assert differences([outputs(model, batch)], [outputs(twin, batch, half=False)])[0] < 0.01


def test_batchnorm_takes_no_inf_into_its_statistics():
    model, twin, batch = twins(batch_norm)
    outputs(twin, batch)
    assert not torchmend.diagnose(twin).healthy
    torchmend.stabilise(model, batch=batch)
    outputs(model, batch)
    assert torchmend.diagnose(model).healthy


def test_what_lies_behind_an_overflow_is_found_once_that_is_gone():
    (linear, _, relu, head), batch = batch_norm()
    model = nn.Sequential(linear, relu, head)
    twin = copy.deepcopy(model)
    handle = torchmend.stabilise(model, batch=batch)
    assert handle.modules == ("0", "2")
    assert differences([outputs(model, batch)], [outputs(twin, batch, half=False)])[0] < 0.01


def test_a_reason_says_what_was_seen():
    model, batch = rms()
    (change,) = torchmend.stabilise(model, batch=batch).changes
    assert (change.place, change.after) == ("1", "float32")
    assert change.reason == "pow gave inf in float16, whose largest number is 65504"


def test_a_sound_network_stays_as_it_is():
    model, batch = rms(scale=1.0)
    handle = torchmend.stabilise(model, batch=batch)
    assert (handle.changes, handle.left_out, str(handle)) == ((), (), "nothing to change")


def test_more_headroom_finds_what_does_not_overflow_yet():
    model, batch = rms(scale=50.0)
    assert torchmend.stabilise(model, batch=batch).modules == ()
    assert torchmend.stabilise(model, batch=batch, headroom=12).modules


MASKS = {
    "-inf": lambda scores, mask: scores.masked_fill(mask, float("-inf")),
    "the smallest float16": lambda scores, mask: scores.masked_fill(mask, torch.finfo(torch.float16).min),
    "added": lambda scores, mask: scores + (torch.finfo(scores.dtype).min * mask).to(scores.dtype),
    "-inf, cast": lambda scores, mask: scores + torch.zeros(8, 8).masked_fill(mask, float("-inf")).to(scores.dtype),
    "-1e9, cast": lambda scores, mask: scores + torch.zeros(8, 8).masked_fill(mask, -1e9).to(scores.dtype),
}


@pytest.mark.parametrize("hide", MASKS.values(), ids=MASKS)
def test_a_mask_of_attention_is_no_overflow(hide):
    class Masked(Attention):
        def forward(self, rows):
            scores = self.query(rows) @ self.key(rows).transpose(-1, -2)
            return torch.softmax(hide(scores, torch.ones(8, 8, dtype=torch.bool).triu(1)), -1) @ self.value(rows)

    _, batch = attention()
    assert torchmend.stabilise(Masked(), batch=batch / 200).changes == ()


def test_weights_in_float16_are_cast_for_the_call_and_get_their_gradients():
    model, twin, batch = twins(rms)
    model.half()
    torchmend.stabilise(model, batch=batch.half())
    found = torch.autograd.grad(model(batch.half()).float().square().mean(), list(model.parameters()))
    assert {each.dtype for each in (*found, *model.parameters())} == {torch.float16}
    assert max(differences([each.float() for each in found], gradients(twin, batch, half=False))) < 0.02


def test_the_output_goes_back_to_the_type_of_the_weights_where_autocast_is_off():
    module = RmsNorm().half()
    torchmend.stabilise(module, modules=RmsNorm)
    assert module(torch.full((2, 32), 1000.0).half()).dtype is torch.float16


def test_inside_autocast_the_output_stays_in_float32_unless_it_is_asked_for():
    model, batch = rms()
    with torch.autocast("cpu", torch.float16):
        torchmend.stabilise(model, modules="0", norms=False)
        assert model[0](batch).dtype is torch.float32
        torchmend.stabilise(model, modules="2", norms=False, cast_back=True)
        assert model[2](batch).dtype is torch.float16


def test_nothing_of_the_model_changes_by_looking_at_it():
    model, batch = batch_norm()
    model[1].eval()
    model.insert(3, nn.Dropout(0.5))
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    torchmend.stabilise(model, batch=batch, norms=False)
    assert torch.equal(torch.rand(3), wanted)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert (model.training, model[1].training, model[3].training) == (True, False, True)
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())


def test_what_a_network_casts_by_hand_is_left_out_and_said():
    model = nn.Sequential(HandCast(), nn.Linear(32, 4))
    handle = torchmend.stabilise(model, batch=4000 * torch.rand(16, 32, generator=torch.Generator().manual_seed(1)))
    assert handle.changes == ()
    ((place, reason),) = [(each.place, each.reason) for each in handle.left_out]
    assert place == "0"
    assert "its own code casts to float16" in reason


def test_statistics_in_float16_are_left_out_and_said():
    model = nn.Sequential(nn.BatchNorm1d(32).half())
    batch = (2000 * torch.rand(16, 32, generator=torch.Generator().manual_seed(1))).half()
    handle = torchmend.stabilise(model, batch=batch, norms=False)
    assert handle.changes == ()
    assert [each.place for each in handle.left_out] == ["0"]
    assert "its buffer running_mean is kept in float16. Call .float() on it" in handle.left_out[0].reason


def test_an_overflow_outside_the_model_is_said():
    model, batch = rms(scale=1.0)

    def forward(model, batch):
        return model(batch).half().add(300).square()

    (left_out,) = torchmend.stabilise(model, batch=batch, forward=forward).left_out
    assert str(left_out).startswith("outside the model left as it is: pow gave inf")


def test_a_batch_may_be_what_data_loaders_give():
    model, batch = fourier()
    assert torchmend.stabilise(model, batch=(batch, torch.zeros(16)), headroom=0).modules == ("0.mix",)


def case(name):
    """Return the faulty training of a case of the benchmark of faults."""
    torch.manual_seed(0)
    return next(each for each in CASES if each.name == name).make(0, True)


def test_a_norm_that_squares_in_float16_learns_as_in_float32():
    training = case("rmsnorm_fp16_overflow")
    before = float(training.loss(0).detach())
    handle = torchmend.stabilise(training.model, batch=0, forward=lambda _, step: training.loss(step))
    twin = copy.deepcopy(training.model).float()
    images, labels = digits(0, 0)
    wanted = nn.functional.cross_entropy(twin((4095 * images).half().float()), labels)
    assert handle.modules == ("0",)
    assert float(training.loss(0).detach()) == pytest.approx(float(wanted.detach()), rel=0.01)
    assert before != pytest.approx(float(wanted.detach()), rel=0.01)


def test_a_fourier_block_that_casts_by_hand_is_not_cured_and_is_named():
    training = case("fft_fp16_overflow")
    handle = torchmend.stabilise(training.model, batch=0, forward=lambda _, step: training.loss(step))
    assert handle.changes == ()
    assert [each.place for each in handle.left_out] == ["Fourier"]
    assert not training.loss(0).isfinite()


def test_a_network_that_turns_autocast_on_by_itself_is_cured_inside():
    training = case("bn_amp_overflow")
    handle = torchmend.stabilise(training.model, batch=80, forward=lambda _, step: training.loss(step))
    assert "inner.0" in handle.modules
    training.loss(80).backward()
    assert torchmend.diagnose(training.model).healthy
    assert all(each.grad.isfinite().all() for each in training.model.parameters())


def test_recomputed_activations_are_in_float32_as_well():
    class Checkpointed(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, rows):
            return checkpoint(self.inner, rows, use_reentrant=False)

    model, twin, batch = twins(rms)
    model = Checkpointed(model)
    assert torchmend.stabilise(model, batch=batch).modules == ("inner.1",)
    assert max(differences(gradients(model, batch), gradients(twin, batch, half=False))) < 0.02


def test_inputs_in_keywords_and_containers_are_cast_too():
    class Pair(nn.Module):
        def forward(self, pair, *, scale):
            assert {each.dtype for each in (*pair, scale)} == {torch.float32}
            return {"sum": pair[0] * scale + pair[1]}

    model = Pair()
    torchmend.stabilise(model, modules=Pair)
    half = torch.ones(2).half()
    assert model((half, half), scale=half)["sum"].dtype is torch.float16


def test_a_caller_s_own_autocast_counts():
    model, batch = rms()
    with torch.autocast("cpu", torch.bfloat16):
        assert torchmend.stabilise(model, batch=batch).changes == ()


def test_looking_does_not_spoil_the_weights_that_autocast_has_cached():
    model, batch = rms(scale=1.0)
    with torch.autocast("cpu", torch.float16):
        torchmend.stabilise(model, batch=batch)
        model(batch).float().sum().backward()
    assert all(each.grad is not None for each in model.parameters())


def test_attention_is_seen_in_evaluation_as_well_where_one_kernel_does_it_all():
    model, batch = late_attention()
    assert torchmend.stabilise(model.eval(), batch=batch, headroom=0).modules == ("0.attention",)
    assert torch.backends.mha.get_fastpath_enabled()


class InPlace(nn.Module):
    def __init__(self, compute):
        super().__init__()
        self.mix, self.compute = nn.Linear(32, 32), compute

    def forward(self, rows):
        return self.compute(self.mix(rows))


COMPUTED = {
    "squared in place": lambda rows: rows.mul_(rows).sqrt(),
    "exponentiated": lambda rows: rows.abs().exp(),
    "multiplied by a number": lambda rows: rows * 300.0,
    "summed": lambda rows: (rows.abs() + 4000).sum(1),
    "written into float16": lambda rows: torch.zeros(16, 32, dtype=torch.float16).copy_(300.0 * rows.float()),
}


@pytest.mark.parametrize("compute", COMPUTED.values(), ids=COMPUTED)
def test_an_overflow_in_a_module_s_own_code_is_seen_when_it_is(compute):
    model = InPlace(compute)
    with torch.no_grad():
        model.mix.weight.copy_(torch.eye(32))
        model.mix.bias.zero_()
    handle = torchmend.stabilise(model, batch=1000 * torch.rand(16, 32), headroom=0)
    assert [each.place for each in (*handle.changes, *handle.left_out)] == ["InPlace"]


def test_large_values_that_are_only_handed_on_are_nobody_s_fault():
    model = nn.Sequential(nn.Flatten(), nn.Identity(), nn.ReLU(), nn.Dropout(0.0))
    assert torchmend.stabilise(model, batch=torch.full((4, 8), 60000.0).half()).changes == ()


def test_large_values_that_overflow_when_they_are_squared_are():
    handle = torchmend.stabilise(RmsNorm(), batch=torch.full((4, 32), 30000.0).half())
    assert handle.modules == ("",)


def test_a_single_negative_outlier_is_no_mask():
    batch = torch.rand(16, 32, generator=torch.Generator().manual_seed(1))
    batch[3, 4] = -1e5
    handle = torchmend.stabilise(nn.Sequential(nn.Linear(32, 4)), batch=batch)
    assert handle.modules == ("0",)
