"""All generators go back to where they were."""

import random

import numpy as np
import pytest
import torch

from torchmend.live.rng import RngState, rng_kept


def drawn():
    return random.random(), np.random.rand(), np.random.randn(3).tolist(), torch.rand(2).tolist()


@pytest.mark.parametrize("exact", [True, False])
def test_what_is_drawn_after_going_back_is_what_was_drawn(exact):
    for _ in range(3):  # the second time NumPy's state is known
        state = RngState.now(exact=exact)
        first = drawn()
        state.restore()
        assert drawn() == first


@pytest.mark.parametrize("exact", [True, False])
def test_a_state_that_was_asked_for_twice_is_the_same(exact):
    first, second = RngState.now(exact=exact), RngState.now(exact=exact)
    np.random.rand()
    second.restore()
    after = drawn()
    first.restore()
    assert drawn() == after


def test_the_second_number_of_a_pair_is_kept():
    np.random.randn()
    with rng_kept():
        first = np.random.randn()
    assert np.random.randn() == first


def test_generators_are_put_back_after_an_error_as_well():
    state = torch.get_rng_state()

    def fail():
        with rng_kept():
            drawn()
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert torch.equal(torch.get_rng_state(), state)
