"""Bad batches, poisoned statistics and broken checkpoints, in the real trainer."""

import logging
import math
from dataclasses import replace

import pytest
import torch

import torchmend
from torchmend import TrainingStoppedError
from trainings import MODEL, config_in, data_in, run, saved
from wavessm_x.checkpoints import CheckpointError
from wavessm_x.training.loop import Loop

NAN = math.nan
MEAN = "refinement_ffc.scales.0.ffc.local_conv.1.running_mean"


@pytest.fixture(autouse=True)
def _told(caplog):
    caplog.set_level(logging.INFO)


def spoilt(monkeypatch, bad, *, key="image", at=()):
    """Have the batches of some steps, counted from 0, hold one bad value."""
    batches = Loop._batches

    def spoiling(self, start):
        original = batches(self, start)
        following = type(original).__next__

        class Spoilt(type(original)):
            def __next__(self):
                position = self.position
                batch = following(self)
                if position in at:
                    batch[key][0, 0, 3, 3] = bad
                return batch

        original.__class__ = Spoilt
        return original

    monkeypatch.setattr(Loop, "_batches", spoiling)


def is_finite(state):
    return all(bool(each.isfinite().all()) for each in state["model_state_dict"].values())


def test_a_bad_batch_is_left_out_and_counted(tmp_path, monkeypatch, caplog):
    spoilt(monkeypatch, NAN, at=(1, 4))
    config = config_in(tmp_path)
    run(data_in(tmp_path), config)
    state = saved(config)
    assert (state["iteration"], state["extra"]["applied"]) == (6, 4)
    assert is_finite(state)
    assert "[NaN INPUT] iter 1:" in caplog.text


def test_a_bad_target_shows_in_the_loss(tmp_path, monkeypatch, caplog):
    spoilt(monkeypatch, NAN, key="target", at=(2,))
    config = config_in(tmp_path)
    run(data_in(tmp_path), config)
    assert saved(config)["extra"]["applied"] == 5
    assert "[NaN SUBLOSS] iter 2:" in caplog.text


def test_the_same_fault_in_every_step_stops_the_run(tmp_path, monkeypatch):
    spoilt(monkeypatch, NAN, at=range(50))
    with pytest.raises(TrainingStoppedError, match="so the fault is in the set-up"):
        run(data_in(tmp_path), config_in(tmp_path, num_iter=20, val_every=20))


def test_statistics_that_are_broken_in_the_file_are_repaired_and_measured_again(tmp_path, caplog):
    data, config = data_in(tmp_path), config_in(tmp_path, num_iter=3)
    run(data, config)
    state = saved(config)
    healthy = state["model_state_dict"][MEAN].clone()
    state["model_state_dict"][MEAN][:] = NAN
    state["extra"]["ema_state_dict"]["module." + MEAN][:] = NAN
    torch.save(state, config.model_file)
    run(data, replace(config, resume=True, num_iter=4, val_every=4))
    assert "[WARN] Found 1 corrupted stats after loading!" in caplog.text
    assert "Recalibrated" in caplog.text
    assert "PSNR" in caplog.text.split("Recalibrated", 1)[1]
    state = saved(config)
    assert is_finite(state)
    assert (state["model_state_dict"][MEAN] - healthy).abs().max() < 0.5
    assert all(bool(each.isfinite().all()) for each in state["extra"]["ema_state_dict"].values())


def test_weights_that_are_broken_in_the_file_are_refused(tmp_path):
    data, config = data_in(tmp_path), config_in(tmp_path, num_iter=3)
    run(data, config)
    torchmend_healthy = config.model_file.read_bytes()
    state = saved(config)
    state["model_state_dict"]["input_conv.weight"][0] = NAN
    torch.save(state, config.model_file)
    broken = config.model_file.read_bytes()
    with pytest.raises(CheckpointError, match="no training goes on from that"):
        run(data, replace(config, resume=True, num_iter=4))
    assert config.model_file.read_bytes() == broken != torchmend_healthy


def test_statistics_that_break_before_a_validation_do_not_reach_it(tmp_path, monkeypatch, caplog):
    validate = Loop._validate_and_save

    def after_damage(self):
        self.parts.model.get_buffer(MEAN)[0] = math.inf
        validate(self)

    monkeypatch.setattr(Loop, "_validate_and_save", after_damage)
    config = config_in(tmp_path, num_iter=3)
    run(data_in(tmp_path), config)
    assert "[Pre-validation sanitization at iter 3]" in caplog.text
    assert is_finite(saved(config))
    assert saved(config)["val_history"][0]["psnr"] > 0


def test_a_model_that_is_corrupted_when_it_is_saved_replaces_nothing(tmp_path, monkeypatch, caplog):
    data, config = data_in(tmp_path), config_in(tmp_path, num_iter=3)
    run(data, config)
    before = config.model_file.read_bytes()
    save = Loop._save

    def after_damage(self):
        self.parts.model.input_conv.weight.data[0] = NAN
        save(self)

    monkeypatch.setattr(Loop, "_save", after_damage)
    run(data, replace(config, resume=True, num_iter=4))
    assert config.model_file.read_bytes() == before
    assert "[FATAL] Checkpoint save aborted! Model corrupted at key: model_state_dict.input_conv.weight" in caplog.text


def test_health_is_checked_as_often_as_asked(tmp_path, caplog):
    run(data_in(tmp_path), config_in(tmp_path, health_every=2))
    told = [line for line in caplog.messages if line.startswith("[HEALTH CHECK]")]
    assert told == [f"[HEALTH CHECK] iter {step}: Model health OK" for step in (2, 4, 6)]


def strengthened(monkeypatch):
    """Have features so strong that the spectrum of small patches overflows in float16, as that of large ones does."""
    run_loop = Loop.run

    def stronger(self):
        for scale in self.parts.model.refinement_ffc.scales:
            scale.norm.weight.data *= 64**2
        return run_loop(self)

    monkeypatch.setattr(Loop, "run", stronger)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # unguarded, it steps when a scaler skips
def test_a_spectrum_in_float16_poisons_statistics_for_ever_without_a_guard(tmp_path, monkeypatch, caplog):
    """The root cause, with the broken cast: a GradScaler skips the steps, and statistics keep what they took in."""
    strengthened(monkeypatch)
    monkeypatch.setenv("TORCHMEND_GUARD", "off")
    config = config_in(tmp_path, num_iter=3, precision="16-mixed")
    run(data_in(tmp_path), config, replace(MODEL, half_fft=True))
    assert "[FATAL] Checkpoint save aborted! Model corrupted at key: model_state_dict.refinement_ffc" in caplog.text
    assert not config.model_file.exists()


def test_with_one_nothing_of_those_steps_stays(tmp_path, monkeypatch):
    strengthened(monkeypatch)
    config = config_in(tmp_path, num_iter=3, precision="16-mixed")
    run(data_in(tmp_path), config, replace(MODEL, half_fft=True))
    assert is_finite(saved(config))
    assert torchmend.diagnose(config.model_file).healthy


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_in_float32_the_spectrum_does_no_harm_even_without_a_guard(tmp_path, monkeypatch):
    strengthened(monkeypatch)
    monkeypatch.setenv("TORCHMEND_GUARD", "off")
    config = config_in(tmp_path, num_iter=3, precision="16-mixed")
    run(data_in(tmp_path), config)
    assert is_finite(saved(config))
