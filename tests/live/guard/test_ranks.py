"""Two processes that train together take the same decisions."""

import subprocess
import sys
from pathlib import Path


def test_what_one_rank_sees_all_refuse(tmp_path):
    script = Path(__file__).with_name("distributed_run.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(tmp_path / "store")],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert sorted(done.stdout.splitlines()) == [
        "rank 0: together True, refused [(3, 'another rank')]",
        "rank 1: together True, refused [(3, '1.running_var')]",
    ]
