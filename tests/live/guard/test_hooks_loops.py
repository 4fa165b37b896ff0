"""Loops between backward and step, and around both, as users write them."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from live.guard.training import OPTIMIZERS, Careless, batch, kept, net, same, train
from torchmend.facts.codes import Code
from torchmend.live.guard.guard import Guard

NAN = float("nan")


def start(make=None, **options):
    model = net()
    optimizer = make(list(model.parameters())) if make else torch.optim.SGD(model.parameters(), 0.1)
    return model, optimizer, Guard(model, optimizer, **options)


def loss_of(model, seed, *, bad=None):
    images, labels = batch(seed, bad=bad)
    return functional.cross_entropy(model(images), labels)


@pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.name)
def test_a_loop_may_use_gradients_of_a_refused_step_without_asking_for_none(kind):
    model, optimizer, _ = start(kind.make)
    state = kept(model, optimizer)
    loss_of(model, 0, bad=NAN).backward()
    for parameter in model.parameters():
        parameter.grad.clamp_(-1, 1)
        parameter.grad = parameter.grad / 2
    optimizer.step()
    assert same(kept(model, optimizer), state)


@pytest.mark.parametrize("set_to_none", [False, True])
def test_a_loop_that_clears_gradients_instead_of_stepping_loses_one_batch_only(set_to_none):
    model, optimizer, guard = start()
    loss_of(model, 0, bad=NAN).backward()
    optimizer.zero_grad(set_to_none=set_to_none)
    state = kept(model)
    loss_of(model, 1).backward()
    optimizer.step()
    assert guard.events.counts["refuse"] == 1
    assert not same(kept(model), state)


def test_a_loop_that_clears_what_a_scaler_would_have_refused_loses_one_batch_only():
    model = net()
    optimizer, scaler = torch.optim.SGD(model.parameters(), 0.1), torch.amp.GradScaler("cpu", init_scale=2.0**8)
    with Guard(model, optimizer, scaler=scaler):
        scaler.scale(loss_of(model, 0, bad=float("inf"))).backward()
        optimizer.zero_grad()
        state = kept(model)
        scaler.scale(loss_of(model, 1)).backward()
        scaler.step(optimizer)
        scaler.update()
        assert not same(kept(model), state)


def test_a_loop_that_zeroes_gradients_in_place_is_that_of_an_unguarded_run():
    ends = []
    for seeds in ([0, 1, None, 2], [0, 1, 2]):
        model, optimizer, guard = start(lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9))
        for seed in seeds:
            optimizer.zero_grad(set_to_none=False)
            loss_of(model, seed or 0, bad=NAN if seed is None else None).backward()
            optimizer.step()
        ends.append(kept(model, optimizer))
        guard.detach()
    assert same(*ends)


def test_a_window_that_goes_on_after_a_refusal_is_refused_whole():
    model, optimizer, _ = start()
    state = kept(model)
    for seed, bad in enumerate((None, NAN, None)):
        loss_of(model, seed, bad=bad).backward()
    optimizer.step()
    assert same(kept(model), state)
    train(model, optimizer, *batch(3))
    assert not same(kept(model), state)


def penalised(model, seed, *, bad=None):
    """A loss with a penalty on the norm of the gradients of the parameters: double backward."""
    loss = loss_of(model, seed, bad=bad)
    gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    return loss + 0.01 * sum(each.square().sum() for each in gradients)


def penalised_at_the_input(model, seed, *, bad=None):
    """A penalty on the gradient at the input, as critics of GANs have it."""
    images, labels = batch(seed, bad=bad)
    images.requires_grad_()
    out = model(images)
    (gradient,) = torch.autograd.grad(out.sum(), images, create_graph=True)
    return functional.cross_entropy(out, labels) + 0.01 * gradient.square().sum()


penalties = pytest.mark.parametrize("penalty", [penalised, penalised_at_the_input])


@penalties
def test_a_gradient_penalty_is_undone_with_its_step(penalty):
    model, optimizer, guard = start()
    penalty(model, 0).backward()
    optimizer.step()
    state = kept(model)
    optimizer.zero_grad()
    penalty(model, 1, bad=NAN).backward()
    optimizer.step()
    assert guard.events.counts["refuse"] == 1
    assert same(kept(model), state)


@penalties
def test_a_gradient_penalty_is_that_of_an_unguarded_run(penalty):
    ends = []
    for guarded in (False, True):
        model, optimizer, guard = start()
        if not guarded:
            guard.detach()
        for seed in range(4):
            optimizer.zero_grad()
            penalty(model, seed).backward()
            optimizer.step()
        assert not guard.events.decisions
        ends.append(kept(model))
    assert same(*ends)


def test_gradients_that_are_only_asked_for_are_no_micro_batch():
    ends = []
    for guarded in (True, False):
        model, optimizer, guard = start(drop_micro_batches=True)
        if not guarded:
            guard.detach()
        for seed in range(4) if guarded else (0, 2, 3):
            loss = loss_of(model, seed, bad=NAN if seed == 1 else None) / (4 if guarded else 3)
            torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            loss.backward()
        optimizer.step()
        ends.append(model.state_dict())
    for one, other in zip(*(each.values() for each in ends), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_loss_is_not_forgotten_because_gradients_are_asked_for_first():
    model, optimizer, guard = start()
    guard.observe(torch.tensor(NAN))
    loss = loss_of(model, 0)
    torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    loss.backward()
    optimizer.step()
    assert [each.code for each in guard.events.decisions[0].findings] == [Code.TRAINING_LOSS_NOT_FINITE]


@pytest.mark.parametrize("bad", [NAN, 3e20])
def test_gradients_set_by_hand_are_refused_once(bad):
    model, optimizer, guard = start()
    state = kept(model)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss_of(model, 0, bad=bad), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    assert guard.events.counts["refuse"] == 1
    assert same(kept(model), state)


class Told(Careless):
    """Takes a closure and does not call it."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step()


@pytest.mark.parametrize("make", [Told, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), torch.optim.AdamW])
def test_a_closure_that_only_returns_the_loss_of_a_refused_step_changes_nothing(make):
    model, optimizer, _ = start(make)
    state = kept(model, optimizer)
    loss = loss_of(model, 0, bad=NAN)
    loss.backward()
    optimizer.step(lambda: loss)
    assert same(kept(model, optimizer), state)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_training_mode_forward_without_gradients_is_undone_with_the_step_that_follows(mode):
    model, optimizer, _ = start()
    for bad in (None, NAN):
        state = kept(model)
        with mode():
            model(batch(5)[0])
        train(model, optimizer, *batch(0, bad=bad))
    assert same(kept(model), state)
    train(model, optimizer, *batch(1))
    assert not same(kept(model), state)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_statistics_that_are_repaired_without_gradients_can_be_trained_on(mode):
    model, optimizer, guard = start()
    train(model, optimizer, *batch(0))
    model.bn.running_var[1] = -1.0
    model.eval()
    with mode():
        assert model(batch(1)[0]).isfinite().all()
    model.train()
    train(model, optimizer, *batch(2))
    assert guard.events.counts["refuse"] == 0


# Who owns what


def test_a_backward_pass_in_another_thread_is_judged():
    model, optimizer, guard = start()
    state = kept(model)
    loss = loss_of(model, 0, bad=NAN)
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    optimizer.step()
    assert guard.events.counts["refuse"] == 1
    assert same(kept(model), state)


def trained(seeds):
    model, optimizer, guard = start(lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9))
    for seed in seeds:
        train(model, optimizer, *batch(seed or 0, bad=NAN if seed is None else None))
    guard.detach()
    return kept(model, optimizer), guard.events.counts["refuse"]


def test_two_guarded_trainings_in_two_threads_do_not_meet():
    """Initial weights come from one generator for all threads, so that the models are made one after the other."""
    runs = [[0, None, 1, 2, None, 3], [4, 5, None, 6, 7, 8]]
    expected = [trained(seeds) for seeds in runs]
    lock, results = threading.Lock(), {}

    def work(at):
        with lock:
            model, optimizer, guard = start(lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9))
        for seed in runs[at]:
            train(model, optimizer, *batch(seed or 0, bad=NAN if seed is None else None))
        results[at] = kept(model, optimizer), guard.events.counts["refuse"]
        guard.detach()

    threads = [threading.Thread(target=work, args=(at,)) for at in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same([results[0], results[1]], expected)


class Siamese(nn.Module):
    """One encoder under two parents, and a head whose weight is another layer's."""

    def __init__(self) -> None:
        super().__init__()
        encoder = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.one, self.two = nn.ModuleDict({"encoder": encoder}), nn.ModuleDict({"encoder": encoder})
        self.head = nn.Linear(4, 4)
        self.head.weight = encoder[0].weight

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.head(self.one["encoder"](rows)) - self.two["encoder"](rows.flip(0))


def test_a_module_under_two_parents_and_tied_weights_are_put_back_once():
    torch.manual_seed(0)
    model = Siamese()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    with Guard(model, optimizer) as guard:
        for value in (1.0, NAN):
            state = kept(model, optimizer)
            optimizer.zero_grad()
            rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)) * value
            model(rows).square().sum().backward()
            optimizer.step()
        assert guard.events.counts["refuse"] == 1
        assert guard.steps == 2
        assert same(kept(model, optimizer), state)


def test_two_optimizers_over_parts_of_one_model_are_both_refused():
    model = net()
    optimizers = [
        torch.optim.AdamW([*model.conv.parameters(), *model.bn.parameters()], 0.01),
        torch.optim.SGD(model.head.parameters(), 0.1, momentum=0.9),
    ]
    with Guard(model, optimizers) as guard:
        for seed, bad in ((0, None), (1, NAN)):
            state = kept(model, *optimizers)
            loss_of(model, seed, bad=bad).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        assert guard.events.counts["refuse"] == 2
        assert same(kept(model, *optimizers), state)


def test_a_backbone_that_freezes_and_thaws_is_guarded_all_along():
    model, optimizer, guard = start()
    for frozen in (False, True, False):
        model.conv.requires_grad_(not frozen)
        train(model, optimizer, *batch(0))
        state = kept(model)
        train(model, optimizer, *batch(1, bad=NAN))
        assert same(kept(model), state)
    assert guard.events.counts["refuse"] == 3


# What users hook and raise


def test_what_a_hook_of_the_user_s_makes_of_a_gradient_is_what_counts():
    model, optimizer, guard = start()
    for name, parameter in model.named_parameters():
        if name == "head.bias":
            parameter.register_hook(lambda gradient: gradient * NAN)
    state = kept(model)
    train(model, optimizer, *batch(0))
    assert guard.events.decisions[0].origin == "head.bias"
    assert same(kept(model), state)


def mend(parameter: torch.Tensor) -> None:
    parameter.grad.nan_to_num_()


@pytest.mark.parametrize("how", ["register_hook", "register_post_accumulate_grad_hook"])
def test_a_gradient_that_a_hook_of_the_user_s_mends_is_no_fault(how):
    model, optimizer, guard = start()
    state = kept(model)
    for parameter in model.parameters():
        if how == "register_hook":
            parameter.register_hook(torch.nan_to_num)
        else:
            parameter.register_post_accumulate_grad_hook(mend)
    model.bn.eval()
    (loss_of(model, 0) * NAN).backward()
    optimizer.step()
    assert not guard.events.decisions
    assert same(kept(model), state)


def test_one_infinite_gradient_is_seen_before_the_loop_clips_all_others_to_zero():
    model, optimizer, guard = start()
    model.head.weight.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor(1), float("inf")))
    state = kept(model)
    train(model, optimizer, *batch(0))
    assert guard.events.decisions[0].origin == "head.weight"
    assert same(kept(model), state)


@pytest.mark.parametrize("poisoned", [False, True])
def test_an_evaluation_between_forward_and_backward_breaks_nothing(poisoned):
    model, optimizer, guard = start()
    train(model, optimizer, *batch(0))
    state = kept(model)
    loss = loss_of(model, 1, bad=NAN if poisoned else None)
    model.eval()
    with torch.no_grad():
        assert model(batch(2)[0]).isfinite().all()
    model.train()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    assert same(kept(model), state) == poisoned
    assert guard.events.counts["refuse"] == poisoned


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("at", ["forward", "loss"])
def test_an_error_before_backward_is_undone_with_the_step_that_follows(error, at):
    model, optimizer, _ = start()
    train(model, optimizer, *batch(0))
    state = kept(model)

    def fail(*_):
        raise error

    handle = model.head.register_forward_pre_hook(fail) if at == "forward" else None
    with pytest.raises(error):
        fail(model(batch(1, bad=NAN)[0]))
    if handle is not None:
        handle.remove()
    train(model, optimizer, *batch(2))
    assert model.bn.running_mean.isfinite().all()
    train(model, optimizer, *batch(3))
    assert not same(kept(model), state)
    assert all(bool(each.isfinite().all()) for each in model.state_dict().values())


def test_a_loop_that_is_a_generator_may_be_left_and_another_begun():
    model, optimizer, guard = start()

    def steps(seeds):
        for seed in seeds:
            optimizer.zero_grad()
            loss = loss_of(model, seed or 0, bad=NAN if seed is None else None)
            loss.backward()
            yield loss
            optimizer.step()

    state = kept(model)
    next(left := steps([None, 0]))
    left.close()  # after backward, before its step
    assert same(kept(model), state)
    for _ in steps([0, None, 1]):
        pass
    assert guard.steps == 3
    assert not same(kept(model), state)
    assert all(bool(each.isfinite().all()) for each in model.state_dict().values())


def test_a_copy_of_model_and_optimizer_together_is_not_guarded():
    model, optimizer, guard = start()
    train(model, optimizer, *batch(0))
    twin, its_optimizer = copy.deepcopy((model, optimizer))
    train(twin, its_optimizer, *batch(1, bad=NAN))
    assert twin.conv.weight.isnan().any()
    assert guard.steps == 1
    assert not guard.events.decisions


def test_schedulers_and_averages_are_as_they_were_after_detaching():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler, average = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5), AveragedModel(model)
    Guard(model, optimizer, scheduler=scheduler, ema=average).detach()
    assert (type(scheduler), type(average)) == (torch.optim.lr_scheduler.StepLR, AveragedModel)
    train(model, optimizer, *batch(0, bad=NAN))
    scheduler.step()
    average.update_parameters(model)
    assert (scheduler.last_epoch, int(average.n_averaged)) == (1, 1)


# What is no ground to refuse a step


def test_a_variance_that_jumps_is_alone_no_ground_to_refuse_a_step():
    model, optimizer, guard = start()
    for seed in range(3):
        train(model, optimizer, *batch(seed))
    before = float(model.bn.running_var.detach().max())
    images, labels = batch(3)
    train(model, optimizer, images * 100, labels)
    assert float(model.bn.running_var.detach().max()) > 4 * before
    assert guard.events.counts["refuse"] == 0


def test_a_batch_without_a_single_target_is_told_and_nothing_is_undone():
    model, optimizer, guard = start()
    batches = int(model.bn.num_batches_tracked)
    loss = functional.cross_entropy(model(batch(0)[0]), torch.full((8,), -100))
    guard.observe(loss).backward()
    optimizer.step()
    (decision,) = guard.events.decisions
    assert decision.happens
    assert [each.code for each in decision.findings] == [Code.TRAINING_LOSS_NOT_FINITE]
    assert int(model.bn.num_batches_tracked) == batches + 1


def test_attention_whose_projection_is_never_called_is_guarded():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    with Guard(model, optimizer) as guard:
        for scale in (1.0, NAN):
            state = kept(model, optimizer)
            optimizer.zero_grad()
            out = model(torch.ones(2, 5, 8), src_mask=mask, is_causal=True)
            (out * scale).sum().backward()
            optimizer.step()
        assert guard.events.counts["refuse"] == 1
        assert same(kept(model, optimizer), state)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e8m0fnu, torch.complex64])
def test_buffers_of_unusual_types_are_put_back(dtype):
    model = nn.Sequential(nn.Linear(4, 4))
    model.register_buffer("scales", torch.ones(4).to(dtype))
    model.register_forward_hook(lambda module, *_: store(module.scales, dtype))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer) as guard:
        state = kept(model)
        model(torch.full((2, 4), NAN)).sum().backward()
        optimizer.step()
        assert guard.events.counts["refuse"] == 1
        assert same(kept(model), state)


def store(scales: torch.Tensor, dtype: torch.dtype) -> None:
    scales.copy_(torch.full((4,), 4.0).to(dtype))
