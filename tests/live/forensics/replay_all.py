"""Replays capsules in a process of its own: `replay_all.py FOLDER NAME...`, a line of JSON for each."""

import json
import sys
from pathlib import Path

from live.forensics.faults import FAULTS
from torchmend import replay

for name in sys.argv[2:]:
    fault = FAULTS[name]
    (capsule,) = (Path(sys.argv[1]) / name).iterdir()
    for loss in (None, fault.loss):
        print(json.dumps(replay(capsule, fault.model(), loss).data()))  # noqa: T201
