"""A run that was interrupted and resumed equals one that was not, to the last bit."""

import argparse
from dataclasses import replace

import pytest
import torch

from live.guard.training import same
from trainings import MODEL, config_in, data_in, interrupted_at, run, saved
from wavessm_x.checkpoints import CheckpointError
from wavessm_x.optim import share_at

WHOLE = ("model_state_dict", "optimizer_state_dict", "scheduler_state_dict", "iteration", "loss_history", "val_history")


SETTINGS = [{"precision": "16-mixed"}, {"precision": "bf16-mixed"}, {"accumulate": 2}, {"ema": 0.0}]


@pytest.mark.parametrize("settings", [{}, *(pytest.param(each, marks=pytest.mark.slow) for each in SETTINGS)], ids=str)
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch, settings):
    data = data_in(tmp_path)
    whole = config_in(tmp_path / "whole", **settings)
    run(data, whole)
    parted = config_in(tmp_path / "parted", **settings)
    with monkeypatch.context() as patch:
        interrupted_at(patch, 4)
        assert run(data, parted).iteration == 4
    assert run(data, replace(parted, resume=True)).iteration == 6
    one, other = saved(whole), saved(parted)
    for key in WHOLE:
        assert same(one[key], other[key]), key
    for key in ("ema_state_dict", "losses_state_dict", "applied", "random"):
        assert same(one["extra"][key], other["extra"][key]), key
    refused = settings.get("precision") == "16-mixed"  # one step, while the scaler looks for its scale
    assert other["extra"]["applied"] == 6 - refused


def test_the_log_goes_on_where_it_was(tmp_path, monkeypatch):
    data, config = data_in(tmp_path), config_in(tmp_path)
    with monkeypatch.context() as patch:
        interrupted_at(patch, 4)
        run(data, config)
    run(data, replace(config, resume=True))
    (log,) = (config.model_file.parent / "logs").glob("training_*.csv")
    assert [line.split(",")[0] for line in log.read_text().splitlines()] == ["iteration", *map(str, range(1, 7))]


def test_another_model_is_refused_and_the_difference_named(tmp_path):
    data, config = data_in(tmp_path), config_in(tmp_path, num_iter=3)
    run(data, config)
    with pytest.raises(CheckpointError, match="d_state is 4 there and 8 here"):
        run(data, replace(config, resume=True), replace(MODEL, d_state=8))


def test_how_the_spectrum_is_computed_may_change(tmp_path):
    data, config = data_in(tmp_path), config_in(tmp_path, num_iter=3)
    run(data, config, replace(MODEL, half_fft=True))
    assert run(data, replace(config, resume=True, num_iter=4)).iteration == 4


@pytest.mark.parametrize(("said", "expected"), [(None, 1e-3), (5e-4, 5e-4)])
def test_the_learning_rate_is_the_checkpoint_s_unless_another_is_said(tmp_path, said, expected):
    data, config = data_in(tmp_path), config_in(tmp_path, num_iter=3)
    run(data, config)
    run(data, replace(config, resume=True, num_iter=5, lr=said))
    rates = saved(config)["optimizer_state_dict"]["param_groups"]
    assert [each["lr"] for each in rates] == [expected * share_at(5, 5, expected)] * 2


def test_there_has_to_be_something_to_go_on_from(tmp_path):
    with pytest.raises(CheckpointError, match="Leave --resume out to begin anew"):
        run(data_in(tmp_path), config_in(tmp_path, resume=True))


def test_a_missing_file_is_stood_in_for_by_the_newest_beside_it(tmp_path, caplog):
    data, config = data_in(tmp_path), config_in(tmp_path, num_iter=3)
    run(data, config)
    other = replace(config, model_file=config.model_file.with_name("wavessm_x_FIXED.pth"), resume=True, num_iter=4)
    assert run(data, other).iteration == 4
    assert "going on from the newest checkpoint beside it" in caplog.text
    assert other.model_file.exists()


def without_extra(config, *, in_one_group):
    """Rewrite a checkpoint as the original trainer's are: nothing beside its own keys, and a schedule of its own."""
    state = saved(config)
    del state["extra"]
    state["config"] = {"lr": 1e-4, "batch_size": 24}
    state["scheduler_state_dict"] = {"last_epoch": 3, "base_lrs": [1e-4]}
    optimizer = state["optimizer_state_dict"]
    if in_one_group:
        numbers = list(reversed(optimizer["state"]))
        optimizer["param_groups"] = [{"lr": 1e-4, "params": numbers}]
        optimizer["state"] = {place: optimizer["state"][number] for place, number in enumerate(numbers)}
    torch.save(state, config.model_file)


@pytest.mark.parametrize("begins_anew", [False, True])
def test_a_checkpoint_of_the_original_trainer_is_gone_on_from(tmp_path, caplog, begins_anew):
    data, config = data_in(tmp_path), config_in(tmp_path, num_iter=3)
    run(data, config)
    without_extra(config, in_one_group=begins_anew)
    longer = replace(config, resume=True, num_iter=60, val_every=60)
    assert run_until(5, data, longer).iteration == 5
    state = saved(config)
    assert ("its moments begin anew" in caplog.text) is begins_anew
    steps = {int(each["step"]) for each in state["optimizer_state_dict"]["state"].values()}
    assert steps == {2 if begins_anew else 5}
    assert state["scheduler_state_dict"]["last_epoch"] == 5
    assert state["extra"]["guard_state_dict"]["steps"] == [5]
    assert state["optimizer_state_dict"]["param_groups"][0]["lr"] == pytest.approx(1e-3 * share_at(5, 60, 1e-3))


def run_until(iteration, data, config):
    """Train, and interrupt it."""
    with pytest.MonkeyPatch.context() as patch:
        interrupted_at(patch, iteration)
        return run(data, config)


def test_a_checkpoint_with_code_in_it_is_refused_in_one_sentence(tmp_path):
    config = config_in(tmp_path, resume=True)
    config.model_file.parent.mkdir()
    torch.save({"model_state_dict": {}, "config": argparse.Namespace(lr=1e-4)}, config.model_file)
    with pytest.raises(CheckpointError, match="code in it is not run"):
        run(data_in(tmp_path), config)
