"""Train WaveSSM-X, guarded by torchmend; the same as `wavessm train`."""

import sys

from wavessm_x.cli import run

if __name__ == "__main__":
    sys.exit(run(["train", *sys.argv[1:]]))
