"""A trained network fills pictures of any size, and touches nothing else."""

import math

import numpy as np
import pytest
import torch

from networks import checkpoint, network
from wavessm_x.checkpoints import CheckpointError
from wavessm_x.restoring import Restorer, RestoringError, Tiling
from wavessm_x.restoring.restorer import find_device


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (40, 33, 3), dtype=np.uint8)


@pytest.fixture
def mask():
    mask = np.zeros((40, 33), dtype=bool)
    mask[5:20, 7:30] = True
    return mask


def restorer(*, masked=True, tiling=None):
    return Restorer(network(masked=masked), tiling=tiling)


def test_what_is_not_masked_stays_to_the_bit(picture, mask):
    restored = restorer().restore(picture, mask)
    assert np.array_equal(restored[~mask], picture[~mask])
    assert not np.array_equal(restored[mask], picture[mask])


def test_what_is_hidden_has_no_say(picture, mask):
    other = np.where(mask[..., None], 255 - picture, picture)
    assert np.array_equal(restorer().restore(picture, mask), restorer().restore(other, mask))


def test_neither_picture_nor_mask_is_changed(picture, mask):
    before, hidden = picture.copy(), mask.copy()
    restorer().restore(picture, mask)
    assert np.array_equal(picture, before)
    assert np.array_equal(mask, hidden)


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "blind"])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 3), (16, 17), (90, 20)], ids=str)
def test_any_size_is_restored_whole_or_in_tiles(size, masked):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = np.ones(size, dtype=bool) if masked else None
    restored = restorer(masked=masked, tiling=Tiling(tile=16, overlap=4)).restore(picture, mask)
    assert restored.shape == picture.shape
    assert restored.dtype == np.uint8


def test_a_mask_that_marks_nothing_leaves_all_as_it_was(picture):
    assert np.array_equal(restorer().restore(picture, np.zeros((40, 33), dtype=bool)), picture)


def test_a_mask_that_lacks_is_asked_for(picture):
    with pytest.raises(RestoringError, match="expects a mask of 33x40 pixels; got none"):
        restorer().restore(picture)


def test_a_mask_of_another_size_is_refused(picture, mask):
    with pytest.raises(RestoringError, match="expects a mask of 33x40 pixels; got 33x39"):
        restorer().restore(picture, mask[:39])


def test_a_blind_network_takes_no_mask(picture, mask):
    with pytest.raises(RestoringError, match="expects no mask"):
        restorer(masked=False).restore(picture, mask)


def test_numbers_that_are_not_finite_are_no_picture(picture, mask):
    model = network()
    torch.nn.init.constant_(model.output.bias, math.nan)
    with pytest.raises(RestoringError, match="not finite"):
        Restorer(model).restore(picture, mask)


def test_a_checkpoint_restores_as_the_network_did(tmp_path, picture, mask):
    loaded = Restorer.load(checkpoint(tmp_path / "x.pth"))
    assert loaded.masked
    assert np.array_equal(loaded.restore(picture, mask), restorer().restore(picture, mask))


def test_averaged_weights_are_taken_where_there_are_any(tmp_path, picture, mask):
    path = checkpoint(tmp_path / "x.pth")
    state = torch.load(path, weights_only=True)
    average = {f"module.{key}": value for key, value in state["model_state_dict"].items()}
    state["extra"] = {"ema_state_dict": {"n_averaged": torch.tensor(1), **average}}
    state["model_state_dict"] = {key: torch.zeros_like(value) for key, value in state["model_state_dict"].items()}
    torch.save(state, path)
    assert np.array_equal(Restorer.load(path).restore(picture, mask), restorer().restore(picture, mask))


def test_a_checkpoint_without_its_settings_is_refused(tmp_path):
    path = checkpoint(tmp_path / "x.pth")
    state = torch.load(path, weights_only=True)
    del state["config"]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="does not say what network it is of"):
        Restorer.load(path)


def test_corrupted_statistics_are_refused_with_a_way_out(tmp_path):
    model = network()
    model.refinement_ffc.scales[0].ffc.global_conv.bn.running_mean.fill_(math.inf)
    with pytest.raises(CheckpointError, match=r"running_mean.*torchmend fix"):
        Restorer.load(checkpoint(tmp_path / "x.pth", model))


def test_a_device_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == torch.device("cpu")
    with pytest.raises(RestoringError, match="no CUDA device"):
        find_device("cuda")
