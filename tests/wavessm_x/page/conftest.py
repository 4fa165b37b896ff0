import pytest

import event_loops


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Leave nothing behind, neither files nor event loops."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "kept"))
    with event_loops.closed_afterwards():
        yield
