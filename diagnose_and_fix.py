"""Diagnose a checkpoint, and with --fix write a repaired copy: the classic recipe's command."""

import sys

from torchmend.cli.classic import run

if __name__ == "__main__":
    sys.exit(run())
