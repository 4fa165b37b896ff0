"""A trained network fills pictures, and touches nothing else."""

import numpy as np
import pytest
import torch

from wavessm_x.config import ModelConfig
from wavessm_x.model import Inpainting
from wavessm_x.restoring import Restorer, RestoringError


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (40, 33, 3), dtype=np.uint8)


def restorer(*, masked=True):
    torch.manual_seed(0)
    return Restorer(Inpainting(ModelConfig.preset("tiny", masked=masked)))


def test_what_is_not_masked_stays_to_the_bit(picture):
    mask = np.zeros((40, 33), dtype=bool)
    mask[5:20, 7:30] = True
    restored = restorer().restore(picture, mask)
    assert np.array_equal(restored[~mask], picture[~mask])
    assert not np.array_equal(restored[mask], picture[mask])


def test_a_mask_that_lacks_is_asked_for(picture):
    with pytest.raises(RestoringError, match="expects a mask of"):
        restorer().restore(picture)


def test_a_blind_network_takes_no_mask(picture):
    with pytest.raises(RestoringError, match="expects no mask"):
        restorer(masked=False).restore(picture, np.ones((40, 33), dtype=bool))
