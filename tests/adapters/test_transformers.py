"""`GuardCallback` in the real Trainer of Transformers: a run goes through faults that kill it without, unseen."""

import logging

import pytest
import torch
from torch import nn

import torchmend
from adapters.runs import BATCHES, INF, NAN, Written, hooks_of, is_finite, loss_of, network, rows
from live.guard.training import same
from torchmend import UserError

pytest.importorskip("accelerate")
transformers = pytest.importorskip("transformers")

from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments  # noqa: E402

from torchmend.adapters.transformers import GuardCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()
        self.losses = []

    def forward(self, rows, labels=None):
        logits = self.net(rows)
        loss = loss_of(lambda _: logits, rows)
        if self.training:
            self.losses.append(float(loss.detach()))
        return {"loss": loss, "logits": logits}


def made(folder, data, model=None, **options):
    torch.manual_seed(0)
    defaults = {
        "num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "lr_scheduler_type": "linear",
        "logging_steps": 4, "save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True, "seed": 0,
        "eval_strategy": "epoch", "train_sampling_strategy": "sequential",
    }  # fmt: skip
    arguments = TrainingArguments(output_dir=str(folder), **{**defaults, **options})
    examples, clean = ([{"rows": row, "labels": row} for row in each] for each in (data, rows()))
    return Trainer(model or Net(), arguments, train_dataset=examples, eval_dataset=clean)


def guarded(folder, data, model=None, options=(), **arguments):
    trainer = made(folder, data, model, **arguments)
    callback = GuardCallback(trainer, **dict(options))
    trainer.add_callback(callback)
    return trainer, callback


def logged(trainer, name):
    return [each[name] for each in trainer.state.log_history if name in each]


def test_without_it_a_poisoned_batch_kills_the_run_and_the_log_says_0(tmp_path):
    trainer = made(tmp_path, rows(bad=NAN, at=1), logging_steps=2)
    trainer.train()
    assert not is_finite(trainer.model)
    assert logged(trainer, "loss") == [0.0] * (BATCHES // 2)
    assert torch.tensor(logged(trainer, "eval_loss")).isnan().all()


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_run_goes_through_a_poisoned_batch(tmp_path, bad, bf16):
    trainer, callback = guarded(tmp_path, rows(bad=bad), bf16=bf16)
    trainer.train()
    assert is_finite(trainer.model)
    assert torch.tensor(logged(trainer, "eval_loss")).isfinite().all()
    assert (callback.guard.steps, callback.guard.events.counts) == (BATCHES, {"refuse": 1})
    assert trainer.state.global_step == BATCHES
    assert trainer.lr_scheduler.last_epoch == BATCHES - 1


def test_losses_that_the_trainer_hides_are_counted_and_told(tmp_path, caplog):
    trainer, _ = guarded(tmp_path, rows(bad=NAN))
    with caplog.at_level(logging.WARNING, "torchmend.guard"):
        trainer.train()
    assert torch.tensor(logged(trainer, "loss")).isfinite().all()
    assert logged(trainer, "hidden_losses") == [1]
    assert "1 losses are NaN or Inf, and left out of the log" in caplog.text


def test_without_the_filter_one_bad_loss_makes_every_later_line_of_the_log_nan(tmp_path):
    trainer, _ = guarded(tmp_path, rows(bad=NAN), logging_nan_inf_filter=False)
    trainer.train()
    assert is_finite(trainer.model)
    assert torch.tensor(logged(trainer, "loss")).isnan().all()
    assert logged(trainer, "hidden_losses") == []


@pytest.mark.parametrize(
    "options", [{}, {"bf16": True}, {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1}], ids=str
)
def test_a_clean_run_ends_as_it_does_without_to_the_last_bit(tmp_path, options):
    trainers = [made(tmp_path, rows(), **options), guarded(tmp_path, rows(), **options)[0]]
    for trainer in trainers:
        trainer.train()
    without, with_it = trainers
    assert same(with_it.model.state_dict(), without.model.state_dict())
    assert same(with_it.optimizer.state_dict(), without.optimizer.state_dict())
    assert logged(with_it, "loss") == logged(without, "loss")
    assert logged(with_it, "grad_norm") == logged(without, "grad_norm")


def test_a_window_of_accumulation_is_refused_whole(tmp_path):
    trainer, callback = guarded(tmp_path, rows(bad=NAN), gradient_accumulation_steps=4)
    trainer.train()
    assert is_finite(trainer.model)
    assert (callback.guard.steps, trainer.lr_scheduler.last_epoch) == (2, 1)
    assert trainer.model.net[1].num_batches_tracked == 4


def test_losses_are_told_as_they_are(tmp_path):
    written = Written()
    trainer, _ = guarded(tmp_path, rows(), options={"writer": written})
    trainer.train()
    assert written.losses == pytest.approx(trainer.model.losses)


class Damaging(TrainerCallback):
    """Writes NaN into a statistic behind everybody's back."""

    def on_epoch_end(self, args, state, control, *, model, **_):
        model.net[1].running_mean[0] = NAN


@pytest.mark.parametrize("is_guarded", [True, False])
@pytest.mark.parametrize("when", ["at the start", "after an epoch"])
def test_damaged_statistics_are_repaired_before_evaluations(tmp_path, when, is_guarded):
    trainer = made(tmp_path, rows(), eval_on_start=True)
    if when == "at the start":
        trainer.model.net[1].running_mean[0] = NAN
    else:
        trainer.add_callback(Damaging())
    if is_guarded:
        trainer.add_callback(GuardCallback(trainer))
    trainer.train()
    assert bool(torch.tensor(logged(trainer, "eval_loss")).isfinite().all()) == is_guarded


@pytest.mark.parametrize("restores", [False, True])
def test_the_memory_goes_on_with_a_resumed_run(tmp_path, restores):
    options = {"num_train_epochs": 2, "save_strategy": "epoch", "restore_callback_states_from_checkpoint": restores}
    whole, callback = guarded(tmp_path, rows(bad=NAN), **options)
    whole.train()
    resumed, again = guarded(tmp_path, rows(bad=NAN), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{BATCHES}"))
    assert (again.guard.steps, again.guard.events.counts) == (2 * BATCHES, {"refuse": 2})
    assert same(resumed.model.state_dict(), whole.model.state_dict())
    one, other = (torchmend_state(each) for each in (callback, again))
    assert repr(one) == repr(other)


def torchmend_state(callback):
    state = callback.guard.state_dict()
    return {**state, "policy": [{**each, "refusals": list(map(list, each["refusals"]))} for each in state["policy"]]}


def test_an_interrupted_run_is_resumed_in_the_same_process(tmp_path):
    class Interrupting(TrainerCallback):
        is_due = True

        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 6 and self.is_due:
                self.is_due = False
                raise KeyboardInterrupt

    trainer, callback = guarded(tmp_path, rows(bad=NAN), save_strategy="steps", save_steps=4)
    trainer.add_callback(Interrupting())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train(resume_from_checkpoint=True)
    assert is_finite(trainer.model)
    assert (callback.guard.steps, callback.guard.events.counts) == (BATCHES, {"refuse": 1})
    assert hooks_of(trainer.model) == 0
    assert "backward" not in vars(trainer.accelerator)


def test_a_tiny_language_model_goes_through_a_planted_gradient(tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    tokens = torch.randint(0, 32, (64, 12), generator=torch.Generator().manual_seed(0))
    arguments = TrainingArguments(
        str(tmp_path), num_train_epochs=1, per_device_train_batch_size=8, report_to=[], disable_tqdm=True,
        save_strategy="no", use_cpu=True, bf16=True
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=[{"input_ids": row, "labels": row} for row in tokens])
    callback = GuardCallback(trainer)
    trainer.add_callback(callback)
    with torchmend.inject(model.transformer.h[1].mlp.c_fc, "nan", "gradient", at=3):
        trainer.train()
    assert is_finite(model)
    assert (callback.guard.steps, callback.guard.events.counts) == (BATCHES, {"refuse": 1})


def test_options_are_passed_on_and_unknown_ones_are_refused(tmp_path):
    trainer, _ = guarded(tmp_path, rows(bad=NAN), options={"observe_only": True})
    trainer.train()
    assert not is_finite(trainer.model)
    trainer, _ = guarded(tmp_path, rows(), options={"cheks": 1})
    with pytest.raises(UserError, match="no option 'cheks'"):
        trainer.train()


def test_after_training_no_hook_is_left(tmp_path):
    trainer, callback = guarded(tmp_path, rows(bad=NAN))
    trainer.train()
    assert hooks_of(trainer.model) == 0
    assert "backward" not in vars(trainer.accelerator)
    assert "8 steps guarded: 1 x refuse" in callback.guard.summary()


def test_the_incident_names_the_example_and_its_capsule_is_replayed_without_a_loss(tmp_path):
    trainer, callback = guarded(tmp_path / "out", rows(bad=NAN), options={"capsules": tmp_path / "capsules"})
    trainer.train()
    (found,) = [each.incident for each in callback.guard.events.decisions if each.incident is not None]
    assert (found.found.cause, found.found.module) == ("input", "rows of the model")
    assert found.found.samples == (1,)
    assert torchmend.replay(found.capsule, Net()).reproduced


def test_a_loss_of_ones_own_is_looked_into_and_its_capsule_holds_the_labels(tmp_path):
    def weighted(model, batch):
        scores = model(batch["rows"])["logits"]
        kept = (batch["rows"][:, 1] < 100).float()
        return (scores[:, 0] * kept).sum() / (1 - (kept == 0).any().float())

    class Weighted(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss = weighted(model, inputs)
            return (loss, model(inputs["rows"])) if return_outputs else loss

    trainer = made(tmp_path / "out", rows(bad=1e3), eval_strategy="no")
    trainer.__class__ = Weighted
    callback = GuardCallback(trainer, loss=weighted, capsules=tmp_path / "capsules")
    trainer.add_callback(callback)
    trainer.train()
    (found,) = [each.incident for each in callback.guard.events.decisions if each.incident is not None]
    assert (found.found.cause, found.found.operation, found.found.samples) == ("loss", "div", (1,))
    assert found.with_loss
    assert torchmend.replay(found.capsule, Net(), weighted).reproduced
    assert "compute_loss" not in vars(trainer)
