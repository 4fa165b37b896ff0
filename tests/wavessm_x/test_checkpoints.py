"""What is corrupted is neither gone on from nor does it replace what is healthy."""

import logging
import math

import pytest
import torch

from wavessm_x.checkpoints import CheckpointError, find, read, write

NAN = math.nan


def state(iteration=1, weight=1.0, mean=0.0):
    model = {
        "conv.weight": torch.full((4, 3), weight),
        "bn.weight": torch.ones(3),
        "bn.running_mean": torch.full((3,), mean),
        "bn.running_var": torch.ones(3),
    }
    return {"model_state_dict": model, "iteration": iteration}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoints" / "wavessm_x.pth"


def test_a_healthy_state_is_written_with_its_folder_and_a_timestamp(path):
    assert write(state(), path, 20.0)
    assert read(path)["iteration"] == 1
    assert read(path)["timestamp"].startswith("20")


def test_a_file_that_is_not_there_is_named_with_what_to_do(path):
    with pytest.raises(CheckpointError, match=r"There is no checkpoint .*wavessm_x\.pth.*--model_file"):
        read(path)


def test_a_corrupted_one_goes_to_quarantine_and_replaces_nothing(path, caplog):
    write(state(1), path, 20.0)
    assert not write(state(2, weight=NAN), path, 30.0)
    assert read(path)["iteration"] == 1
    assert "[FATAL] Checkpoint save aborted! Model corrupted at key: model_state_dict.conv.weight" in caplog.text


def test_the_best_is_kept_and_nan_never_wins(path):
    best = path.with_name("wavessm_x_best.pth")
    for iteration, psnr in enumerate((20.0, 25.0, NAN, 22.0)):
        write(state(iteration), path, psnr)
    assert read(best)["iteration"] == 1
    assert read(path)["iteration"] == 3


def test_weights_that_are_corrupted_are_refused_with_a_way_out(path):
    path.parent.mkdir()
    torch.save(state(weight=NAN), path)
    with pytest.raises(CheckpointError, match="torchmend pick"):
        read(path)


def test_statistics_that_are_corrupted_are_no_ground_to_refuse(path):
    path.parent.mkdir()
    torch.save(state(mean=NAN), path)
    assert "model_state_dict" in read(path)


def test_what_is_no_checkpoint_of_this_trainer_is_refused(path):
    path.parent.mkdir()
    torch.save({"weight": torch.ones(3)}, path)
    with pytest.raises(CheckpointError, match="no model_state_dict"):
        read(path)


def test_the_newest_is_found_but_never_a_best_one(path, caplog):
    path.parent.mkdir()
    torch.save(state(), path.with_name("wavessm_x_best.pth"))
    with pytest.raises(CheckpointError):
        find(path)
    torch.save(state(), path.with_name("wavessm_x_old.pth"))
    with caplog.at_level(logging.WARNING):
        assert find(path).name == "wavessm_x_old.pth"
