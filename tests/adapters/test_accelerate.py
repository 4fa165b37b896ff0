"""`guarded` in a real loop of Accelerate, made before or after `prepare`."""

import pytest
import torch
from torch import nn

from adapters.runs import BATCHES, INF, NAN, Written, hooks_of, is_finite, loader, loss_of, network, rows
from live.guard.training import same
from torchmend import UserError

accelerate = pytest.importorskip("accelerate")

from accelerate.state import AcceleratorState  # noqa: E402

from torchmend.adapters.accelerate import guarded  # noqa: E402


class Run:
    """A network, an optimizer and a scheduler in a loop of Accelerate; guarded before or after `prepare`, or not."""

    def __init__(self, when="after", options=(), scaler=None, clips="at the end", **of_accelerator):
        torch.manual_seed(0)
        self.accelerator = accelerate.Accelerator(cpu=True, **of_accelerator)
        self.accelerator.scaler = scaler or self.accelerator.scaler
        self.guard = None
        self.model = network()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-2)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, 0.99)
        for each in ("before", "prepare", "after"):
            if each == "prepare":
                prepared = self.accelerator.prepare(self.model, self.optimizer, self.scheduler)
                self.model, self.optimizer, self.scheduler = prepared
            elif each == when:
                self.guard = guarded(
                    self.accelerator, self.model, self.optimizer, scheduler=self.scheduler, **dict(options)
                )
        self.losses = []
        self.clips = clips

    def epoch(self, data):
        for (batch,) in self.accelerator.prepare(loader(data)):
            with self.accelerator.accumulate(self.model):
                loss = loss_of(self.model, batch)
                self.losses.append(float(loss.detach()))
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients or self.clips == "always":
                    self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()
        return self

    @property
    def rate_steps(self):
        return self.scheduler.scheduler.last_epoch


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("when", ["before", "after", "never"])
def test_a_run_goes_through_a_poisoned_batch_that_kills_it_without(when, bad, precision):
    run = Run(when, mixed_precision=precision).epoch(rows(bad=bad))
    assert is_finite(run.model) == (when != "never")
    if run.guard is not None:
        assert (run.guard.steps, run.guard.events.counts) == (BATCHES, {"refuse": 1})
        assert run.rate_steps == BATCHES - 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_window_of_accumulation_is_refused_whole(when):
    run = Run(when, gradient_accumulation_steps=4).epoch(rows(bad=NAN))
    assert is_finite(run.model)
    assert (run.guard.steps, run.rate_steps) == (2, 1)


def test_a_loop_that_clips_between_micro_batches_goes_on_with_those_after_the_bad_one():
    """Clipping writes to the gradients that the refusal left, which cannot be told from clearing them."""
    run = Run(gradient_accumulation_steps=4, clips="always").epoch(rows(bad=NAN))
    assert is_finite(run.model)
    assert (run.guard.steps, run.guard.events.counts["refuse"], run.rate_steps) == (2, 1, 2)
    assert run.model[1].num_batches_tracked == 5


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_scaler_is_held_and_losses_are_told_without_its_factor(when):
    """Accelerate makes no scaler on a CPU; this one is put where it puts its own."""
    written = Written()
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    run = Run(when, {"writer": written}, scaler).epoch(rows(bad=NAN))
    assert is_finite(run.model)
    assert run.rate_steps == BATCHES - 1
    assert scaler.get_scale() == 128.0
    assert written.losses == pytest.approx(run.losses, nan_ok=True)


def test_accelerate_calls_a_step_skipped_that_the_guard_refused_only_where_there_is_a_scaler():
    for scaler, skipped in ((None, False), (torch.amp.GradScaler("cpu", init_scale=256.0), True)):
        run = Run(scaler=scaler).epoch(rows(bad=NAN, at=63))
        assert run.accelerator.optimizer_step_was_skipped == skipped
        assert run.guard.events.counts["refuse"] == 1


@pytest.mark.parametrize("options", [{}, {"mixed_precision": "bf16", "gradient_accumulation_steps": 2}], ids=str)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_clean_run_ends_as_it_does_without_to_the_last_bit(when, options):
    runs = []
    for each in (when, "never"):
        AcceleratorState._reset_state(reset_partial_state=True)
        runs.append(Run(each, **options).epoch(rows()).epoch(rows()))
    assert same(runs[0].model.state_dict(), runs[1].model.state_dict())
    assert same(runs[0].optimizer.state_dict(), runs[1].optimizer.state_dict())


def test_damaged_statistics_are_repaired_before_an_evaluation():
    run = Run().epoch(rows())
    run.model[1].running_mean[0] = NAN
    with torch.no_grad():
        assert run.model.eval()(rows()).isfinite().all()


def test_the_memory_goes_on_with_a_resumed_run(tmp_path):
    first = Run().epoch(rows(bad=NAN))
    first.accelerator.save_state(tmp_path)
    second = Run()
    second.accelerator.load_state(tmp_path)
    assert repr(second.guard.state_dict()) == repr(first.guard.state_dict())
    second.epoch(rows(bad=NAN))
    first.epoch(rows(bad=NAN))
    assert (second.guard.steps, second.guard.events.counts) == (2 * BATCHES, {"refuse": 2})
    assert same(second.model.state_dict(), first.model.state_dict())


def test_a_state_that_was_saved_without_the_guard_is_loaded_before_it_is_made(tmp_path):
    Run("never").epoch(rows()).accelerator.save_state(tmp_path)
    with pytest.raises(RuntimeError, match="Registered objects: 1"):
        Run().accelerator.load_state(tmp_path)
    run = Run("never")
    run.accelerator.load_state(tmp_path)
    guard = guarded(run.accelerator, run.model, run.optimizer, scheduler=run.scheduler)
    assert is_finite(run.epoch(rows(bad=NAN)).model)
    assert guard.events.counts == {"refuse": 1}


def test_two_networks_with_an_optimizer_each_are_guarded_together():
    torch.manual_seed(0)
    accelerator = accelerate.Accelerator(cpu=True)
    models = [network(), network()]
    optimizers = [torch.optim.SGD(each.parameters(), 0.1) for each in models]
    prepared = accelerator.prepare(*models, *optimizers)
    guard = guarded(accelerator, list(prepared[:2]), list(prepared[2:]))
    for (batch,) in loader(rows(bad=NAN)):
        for model, optimizer in zip(prepared[:2], prepared[2:], strict=True):
            accelerator.backward(loss_of(model, batch))
            optimizer.step()
            optimizer.zero_grad()
    assert all(map(is_finite, models))
    assert guard.state_dict()["steps"] == [BATCHES, BATCHES]


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_strategies_that_keep_parameters_elsewhere_are_refused(monkeypatch, kind):
    run = Run("never")
    monkeypatch.setattr(type(run.accelerator), "distributed_type", accelerate.DistributedType[kind])
    with pytest.raises(UserError, match=f"does not support {kind}"):
        guarded(run.accelerator, run.model, run.optimizer)


def test_detaching_leaves_no_hook():
    run = Run()
    run.guard.detach()
    assert hooks_of(run.model) == 0
    assert not is_finite(run.epoch(rows(bad=NAN)).model)


def test_a_model_alone_is_no_list():
    with pytest.raises(UserError, match="as model"):
        guarded(accelerate.Accelerator(cpu=True), [], torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1))
