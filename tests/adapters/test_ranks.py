"""Two processes that a framework trains together take the same decisions, though one of them alone sees the fault."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FRAMEWORKS = ("accelerate", "transformers", "lightning", "fabric")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Run all frameworks once: by name and rank, what happened."""
    for each in FRAMEWORKS[:3]:
        pytest.importorskip(each)
    script = Path(__file__).with_name("distributed_run.py")
    store = tmp_path_factory.mktemp("ranks") / "store"
    command = [sys.executable, "-W", "ignore", str(script), str(store)]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    return {
        (name, rank): json.loads(Path(f"{store}.{name}.{rank}.json").read_text(encoding="utf-8"))
        for name in FRAMEWORKS
        for rank in range(2)
    }


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_one_process_sees_alone_is_refused_by_both(outcomes, framework):
    one, other = (outcomes[framework, rank] for rank in range(2))
    assert one == other
    assert (one["refused"], one["steps"], one["finite"]) == (1, [4], True)
