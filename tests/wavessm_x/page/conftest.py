import pytest

import event_loops


@pytest.fixture(autouse=True)
def loops():
    with event_loops.closed_afterwards():
        yield
