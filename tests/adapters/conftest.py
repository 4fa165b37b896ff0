"""No test asks the Hugging Face Hub for anything, and none finds the state of another's Accelerator."""

import os
import sys

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported


@pytest.fixture(autouse=True)
def fresh_accelerator_state():
    yield
    state = sys.modules.get("accelerate.state")
    if state is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)
