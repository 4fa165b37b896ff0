"""`GuardCallback` in a real Trainer of Lightning: a run goes through faults that kill it without."""

import pytest
import torch
from torch import nn

import torchmend
from adapters.runs import BATCHES, INF, NAN, Written, hooks_of, is_finite, loader, loss_of, network, rows
from live.guard.training import same
from torchmend import UserError

lightning = pytest.importorskip("lightning.pytorch")

from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, LambdaCallback, WeightAveraging  # noqa: E402
from lightning.pytorch.plugins.precision import MixedPrecision  # noqa: E402

from torchmend.adapters.lightning import GuardCallback  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = network()
        self.losses, self.scores = [], []

    def training_step(self, batch, _):
        loss = loss_of(self.net, batch[0])
        self.losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch, _):
        self.scores.append(float(loss_of(self.net, batch[0])))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), 1e-2)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.99)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def fitted(*callbacks, data, module=Module, resume=None, **options):
    torch.manual_seed(0)
    made = module()
    defaults = {"max_epochs": 1, "num_sanity_val_steps": 1}
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=list(callbacks), **{**defaults, **options}
    )  # fmt: skip
    trainer.fit(made, loader(data), loader(rows()), ckpt_path=resume)
    return trainer, made


def scheduler_of(trainer):
    return trainer.lr_scheduler_configs[0].scheduler


PRECISIONS = ["32-true", "bf16-mixed"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_poisoned_batch_kills_the_run_without(bad, precision):
    _, module = fitted(data=rows(bad=bad), precision=precision)
    assert not is_finite(module)
    assert not torch.tensor(module.scores).isfinite().all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_run_goes_through_a_poisoned_batch(bad, precision):
    callback = GuardCallback()
    trainer, module = fitted(callback, data=rows(bad=bad), precision=precision)
    assert is_finite(module)
    assert torch.tensor(module.scores).isfinite().all()
    assert callback.guard.steps == BATCHES
    assert callback.guard.events.counts == {"refuse": 1}
    assert scheduler_of(trainer).last_epoch == BATCHES - 1
    assert "8 steps guarded: 1 x refuse" in callback.guard.summary()


def test_the_steps_that_lightning_counts_are_those_that_were_tried():
    trainer, _ = fitted(GuardCallback(), data=rows(bad=NAN), max_steps=5, max_epochs=-1)
    assert trainer.global_step == 5
    assert scheduler_of(trainer).last_epoch == 4


def test_a_planted_gradient_is_refused():
    callback = GuardCallback()

    class Planted(Module):
        def on_fit_start(self):
            torchmend.inject(self.net[0], "nan", "gradient", at=3)

    _, module = fitted(callback, data=rows(), module=Planted)
    assert is_finite(module)
    assert callback.guard.events.counts == {"refuse": 1}


ACCUMULATED = {"accumulate_grad_batches": 2, "gradient_clip_val": 1.0}


@pytest.mark.parametrize(
    "options", [{}, {"precision": "bf16-mixed"}, ACCUMULATED], ids=["plain", "bf16", "accumulated"]
)
def test_a_clean_run_ends_as_it_does_without_to_the_last_bit(options):
    (one, with_it), (other, without) = (
        fitted(*callbacks, data=rows(), max_epochs=2, **options) for callbacks in ([GuardCallback()], [])
    )
    assert same(with_it.state_dict(), without.state_dict())
    assert same(one.optimizers[0].state_dict(), other.optimizers[0].state_dict())
    assert with_it.scores == without.scores


def test_a_window_of_accumulation_is_refused_whole():
    callback = GuardCallback()
    trainer, module = fitted(callback, data=rows(bad=NAN), accumulate_grad_batches=4)
    assert is_finite(module)
    assert (callback.guard.steps, callback.guard.events.counts["refuse"]) == (2, 1)
    assert scheduler_of(trainer).last_epoch == 1
    assert module.net[1].num_batches_tracked == 4


def test_one_bad_micro_batch_is_dropped_alone_if_asked():
    callback = GuardCallback(drop_micro_batches=True)
    trainer, module = fitted(callback, data=rows(bad=NAN), accumulate_grad_batches=4)
    assert is_finite(module)
    assert scheduler_of(trainer).last_epoch == 2
    assert module.net[1].num_batches_tracked == 7


@pytest.mark.parametrize("bad", [None, NAN])
def test_a_scaler_on_the_cpu_is_held_and_losses_are_told_without_its_factor(bad):
    written = Written()
    callback = GuardCallback(writer=written)
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=256.0))
    trainer, module = fitted(callback, data=rows(bad=bad), plugins=[plugin])
    assert is_finite(module)
    assert scheduler_of(trainer).last_epoch == (BATCHES if bad is None else BATCHES - 1)
    assert plugin.scaler.get_scale() == (256.0 if bad is None else 128.0)
    assert written.losses == pytest.approx(module.losses, nan_ok=True)


@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step")
@pytest.mark.parametrize(
    ("callbacks", "steps"), [([], BATCHES), ([GuardCallback()], BATCHES - 2)], ids=["alone", "guarded"]
)
def test_a_schedule_is_held_where_the_scaler_refuses_which_lightning_alone_does_not(callbacks, steps):
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    trainer, _ = fitted(*callbacks, data=rows(), plugins=[plugin])
    assert plugin.scaler.get_scale() == 65536.0 / 4
    assert scheduler_of(trainer).last_epoch == steps


def test_without_a_scaler_losses_are_told_as_they_are():
    written = Written()
    _, module = fitted(GuardCallback(writer=written), data=rows())
    assert written.losses == pytest.approx(module.losses)


class Damaging(Callback):
    """Writes NaN into a statistic behind everybody's back."""

    def __init__(self, when):
        setattr(self, when, lambda trainer, module, *_: module.net[1].running_mean[0].fill_(NAN))


@pytest.mark.parametrize("when", ["on_fit_start", "on_sanity_check_start", "on_validation_start"])
@pytest.mark.parametrize("guarded", [True, False])
def test_damaged_statistics_are_repaired_before_a_validation_and_the_sanity_check(when, guarded):
    callbacks = [GuardCallback()] if guarded else []
    _, module = fitted(Damaging(when), *callbacks, data=rows(), check_val_every_n_epoch=1)
    assert bool(torch.tensor(module.scores).isfinite().all()) == guarded


@pytest.mark.parametrize("inference_mode", [True, False])
def test_a_run_goes_on_after_a_repair_during_validation(inference_mode):
    data = rows()
    _, module = fitted(
        Damaging("on_validation_start"), GuardCallback(), data=data, max_epochs=2, inference_mode=inference_mode
    )
    assert is_finite(module)


def test_the_memory_goes_on_with_a_resumed_run(tmp_path):
    first, second, whole = GuardCallback(), GuardCallback(), GuardCallback()
    trainer, _ = fitted(first, data=rows(bad=NAN))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    torch.load(tmp_path / "run.ckpt", weights_only=True)
    _, resumed = fitted(second, data=rows(bad=NAN), resume=tmp_path / "run.ckpt", max_epochs=2)
    _, module = fitted(whole, data=rows(bad=NAN), max_epochs=2)
    assert second.guard.steps == 2 * BATCHES
    assert second.guard.events.counts == {"refuse": 2}
    assert repr(second.guard.state_dict()) == repr(whole.guard.state_dict())
    assert same(resumed.state_dict(), module.state_dict())


def test_an_interrupted_run_leaves_no_hook_and_is_resumed(tmp_path):
    def interrupt(trainer, module, batch, at):
        if at == 5:
            raise KeyboardInterrupt

    torch.manual_seed(0)
    callback, module = GuardCallback(), Module()
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=1,
        enable_checkpointing=False, callbacks=[callback, LambdaCallback(on_train_batch_start=interrupt)]
    )  # fmt: skip
    with pytest.raises(SystemExit):
        trainer.fit(module, loader(rows(bad=NAN)), loader(rows()))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    assert hooks_of(module) == 0
    again = GuardCallback()
    _, module = fitted(again, data=rows(), resume=tmp_path / "run.ckpt", max_epochs=2)
    assert is_finite(module)
    assert again.guard.steps > 5
    assert again.guard.events.counts["refuse"] == 1


def test_a_second_fit_has_a_guard_of_its_own():
    callback = GuardCallback()
    trainer, module = fitted(callback, data=rows(bad=NAN))
    first = callback.guard
    assert hooks_of(module) == 0
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader(rows(bad=NAN)), loader(rows()))
    assert callback.guard is not first
    assert callback.guard.steps == BATCHES


@pytest.mark.parametrize("average", [WeightAveraging, EMAWeightAveraging])
def test_a_weight_average_takes_nothing_in_from_a_refused_step(average):
    averaging = average()
    _, module = fitted(averaging, GuardCallback(), data=rows(bad=NAN), max_epochs=1)
    assert is_finite(module)  # by now it holds the average
    assert is_finite(averaging._average_model)
    assert averaging._average_model.n_averaged == BATCHES - 1


class Two(Module):
    """Two networks, two optimizers, stepped by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.other = network()

    def training_step(self, batch, _):
        for model, optimizer in zip((self.net, self.other), self.optimizers(), strict=True):
            optimizer.zero_grad()
            self.manual_backward(loss_of(model, batch[0]))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.AdamW(self.net.parameters()), torch.optim.SGD(self.other.parameters(), 0.1)]


@pytest.mark.parametrize("guarded", [True, False])
def test_two_optimizers_that_are_stepped_by_hand_are_guarded(guarded):
    callback = GuardCallback()
    _, module = fitted(*[callback] if guarded else [], data=rows(bad=NAN), module=Two)
    assert is_finite(module) == guarded
    if guarded:
        assert callback.guard.state_dict()["steps"] == [BATCHES, BATCHES]
        assert callback.guard.events.counts == {"refuse": 2}


def test_options_are_passed_on_and_unknown_ones_are_refused():
    callback = GuardCallback(observe_only=True)
    _, module = fitted(callback, data=rows(bad=NAN))
    assert not is_finite(module)
    with pytest.raises(UserError, match="no option 'cheks'"):
        fitted(GuardCallback(cheks=1), data=rows())


def test_a_fault_that_comes_back_stops_the_run_with_an_explanation():
    class Broken(Module):
        def training_step(self, batch, _):
            return super().training_step(batch, _) * NAN

    with pytest.raises(torchmend.TrainingStoppedError):
        fitted(GuardCallback(), data=rows(), module=Broken, max_epochs=3)


def test_the_older_package_takes_the_same_callback():
    older = pytest.importorskip("pytorch_lightning")

    class Older(older.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def training_step(self, batch, _):
            return loss_of(self.net, batch[0])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), 1e-2)

    callback, module = GuardCallback(), Older()
    trainer = older.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[callback], max_epochs=1
    )  # fmt: skip
    trainer.fit(module, loader(rows(bad=NAN)))
    assert is_finite(module)
    assert callback.guard.events.counts == {"refuse": 1}


def test_a_model_without_normalisation_is_guarded_too():
    class Plain(Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(3, 1)

    callback = GuardCallback()
    _, module = fitted(callback, data=rows(bad=NAN), module=Plain)
    assert is_finite(module)
    assert callback.guard.events.counts == {"refuse": 1}


def test_the_incident_names_the_example_and_its_capsule_holds_the_batch(tmp_path):
    callback = GuardCallback(capsules=tmp_path)
    fitted(callback, data=rows(bad=NAN))
    (found,) = [each.incident for each in callback.guard.events.decisions if each.incident is not None]
    assert (found.found.cause, found.found.samples, found.found.of) == ("input", (1,), 8)
    net = Module()
    result = torchmend.replay(found.capsule, net, lambda model, batch: loss_of(model.net, batch[0]))
    assert result.reproduced
    assert result.now.samples == (1,)
